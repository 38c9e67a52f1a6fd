"""By which names browsers may ask for the page.

A stranger may have a name of his lead to this machine (DNS rebinding), and his page would then seem to be this one to
the browser. So only names that are nobody else's are known: addresses, ``localhost``, and those that somebody gave the
page.
"""

import ipaddress
import re
from collections.abc import Sequence

_NAME = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*", re.ASCII)


def is_name(text: str) -> bool:
    """Whether it is a bare host name, ``*.name`` for all below one, or an address."""
    return _is_address(text) or _NAME.fullmatch(text) is not None


def is_known(host: str, named: Sequence[str]) -> bool:
    """Whether browsers may ask for the page as ``host``, which may have a port."""
    name = _without_port(host)
    return name == "localhost" or _is_address(name.strip("[]")) or is_named(host, named)


def is_named(host: str, named: Sequence[str]) -> bool:
    """Whether ``host``, which may have a port, is one of the names that somebody gave the page."""
    name = _without_port(host)
    return any(name == each or (each.startswith("*.") and name.endswith(each[1:])) for each in map(str.lower, named))


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host.lower())


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
