"""Page tokens: where a listing stands. Opaque to clients, checked when they come back."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Self

from clipseek_server.errors import InvalidField
from clipseek_server.index.records import IMAGE_ID


@dataclass(frozen=True, slots=True)
class PagePosition:
    """The end of a page.

    Attributes:
        after: The last id or name of the page; a name matches ``IMAGE_ID`` too.
        uid: The collection listed; empty for the list of collections.
        filter_mark: The fingerprint of the filter; empty without one.
    """

    after: str
    uid: str = ""
    filter_mark: str = ""

    def format(self) -> str:
        """As a token."""
        content = json.dumps([self.after, self.uid, self.filter_mark], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode()

    @classmethod
    def parse(cls, token: str, *, uid: str = "", filter_mark: str = "") -> Self:
        """Read a token.

        Raises:
            InvalidField: It is no token, or one of another collection or filter.
        """
        try:
            parts = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        except (ValueError, binascii.Error, RecursionError):
            parts = None
        texts = isinstance(parts, list) and len(parts) == 3 and all(isinstance(part, str) for part in parts)
        if not texts or not IMAGE_ID.fullmatch(parts[0]):
            raise InvalidField("not a page token; send next_page_token as it came", field="page_token")
        position = cls(*parts)
        if position.uid != uid:
            raise InvalidField("the page token belongs to another collection; begin anew", field="page_token")
        if position.filter_mark != filter_mark:
            raise InvalidField("the page token belongs to another filter; begin anew", field="page_token")
        return position
