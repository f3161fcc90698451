"""Reading values, §1 of formats.md: each is checked for its type and bounds before it is used.

bool is a subclass of int in Python and must not pass for one.
"""

from __future__ import annotations

import hmac
import re
from typing import Any, Sequence

from cbor_strict import Refused


def array(value: Any, size: int, what: str) -> list[Any]:
    if type(value) is not list or len(value) != size:
        raise Refused(f"{what}: an array of {size} is expected")
    return value


def items(value: Any, least: int, most: int, what: str) -> list[Any]:
    if type(value) is not list or not least <= len(value) <= most:
        raise Refused(f"{what}: a list of {least} to {most} is expected")
    return value


def number(value: Any, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise Refused(f"{what}: a number from {least} to {most} is expected")
    return value


def octets(value: Any, sizes: Sequence[int], what: str) -> bytes:
    """A byte string whose size is in sizes, which may be a range."""
    if type(value) is not bytes or len(value) not in sizes:
        raise Refused(f"{what}: a byte string of another size is expected")
    return value


def text(value: Any, pattern: str, what: str) -> str:
    if type(value) is not str or not re.fullmatch(pattern, value, re.ASCII):
        raise Refused(f"{what}: the text is not of its form")
    return value


def version(value: Any, what: str) -> None:
    if type(value) is not int or value != 1:
        raise Refused(f"{what}: it is not of version 1, the only one known here")


def realm_of(value: Any, what: str) -> int:
    return number(value, 1, 2, f"{what}: realm")


def generation_of(value: Any, what: str) -> int:
    return number(value, 1, 2**32 - 1, f"{what}: generation")


def same(a: bytes, b: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a, b)
