"""By which names browsers may ask for the page."""

import ipaddress
from collections.abc import Sequence

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine; other programs may serve pages under them, too."""


def accepted(address: str, named: Sequence[str]) -> list[str]:
    """The names, ``*`` for any, of a page that listens on ``address`` and that a proxy knows as ``named``.

    On loopback they are few: a name of a stranger's may lead there, too.
    """
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = address == "localhost"
    return [*LOOPBACK, *named] if is_loopback else list(named) or ["*"]
