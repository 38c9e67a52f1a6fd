"""What can go wrong in an export. Each message says what to do; each class knows the command's exit status."""

from typing import ClassVar


class ExportError(Exception):
    """The bundle cannot be made."""

    exit_status: ClassVar[int] = 1


class HubUnreachable(ExportError):
    """The model hub does not answer. ``make run`` knows this status and builds the starter instead."""

    exit_status = 3
