"""Who may call what: bearer tokens in the ``authorization`` metadata (RFC 6750), as ``Authorization: Bearer TOKEN``."""

import hashlib
from collections.abc import Iterable, Mapping

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from clipseek_server.errors import PermissionDenied, Unauthenticated

_SCHEME = "bearer "


class Access:
    """Checks each call's token. Without any tokens everybody may call everything.

    Args:
        tokens: Those that may call everything.
        read_tokens: Those that may call what changes nothing.
    """

    def __init__(self, tokens: Iterable[str] = (), read_tokens: Iterable[str] = ()) -> None:
        # Digests, so that how long a comparison takes says nothing of a token.
        self._all = {_digest(token) for token in tokens}
        self._reads = {_digest(token) for token in read_tokens}

    def check(self, metadata: Mapping[str, str | bytes], method: MethodDescriptor) -> None:
        """See that the call may be made.

        Raises:
            Unauthenticated: No token, or one that is not known.
            PermissionDenied: The token is for reading, and the method is none that only reads.
        """
        if not self._all and not self._reads:
            return
        sent = metadata.get("authorization", "")
        if not isinstance(sent, str) or not sent.lower().startswith(_SCHEME):
            raise Unauthenticated("this server wants a token: send the metadata 'authorization: Bearer TOKEN'")
        digest = _digest(sent[len(_SCHEME) :].strip())
        if digest in self._all:
            return
        if digest not in self._reads:
            raise Unauthenticated("the server does not know this token")
        if method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS:
            raise PermissionDenied(f"this token may only read, and {method.name} does more")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
