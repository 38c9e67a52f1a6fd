"""Distinct sentences about pictures, as many as are needed: a cache of answers must not make a server look fast."""

import math
from typing import Final

_PARTS: Final = tuple(
    part.split()
    for part in (
        "small large old young red blue green yellow happy tired wet dusty broken shiny wooden striped",
        "cat dog horse bird boat bicycle car train clock flower tree house bridge cup child woman",
        "standing sleeping waiting leaning hidden lost resting painted reflected parked alone floating",
        "beside behind under near above inside",
        "snowy sunny empty crowded quiet narrow",
        "street beach garden kitchen station forest harbour market river mountain window",
        "night noon dawn dusk",
    )
)
WORDS: Final = ("a", "at", "the", *(word for part in _PARTS for word in part))
"""All words that occur."""

COUNT: Final = math.prod(len(part) for part in _PARTS)
"""How many different sentences there are."""

_STRIDE: Final = 1_000_003  # a prime that does not divide COUNT, so that neighbours have little in common


def sentence(number: int) -> str:
    """The sentence of that number: another one for each number below ``COUNT``."""
    rest = number * _STRIDE % COUNT
    chosen = []
    for part in _PARTS:
        rest, index = divmod(rest, len(part))
        chosen.append(part[index])
    adjective, noun, doing, where, kind, place, hour = chosen
    return f"a {adjective} {noun} {doing} {where} the {kind} {place} at {hour}"
