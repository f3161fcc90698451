"""Deterministic CBOR as section 2 of formats.md wants it.

The rules are checked twice, by code that shares nothing: a walk over the bytes, written
from the text, which refuses every form but one; and cbor2, which must read the same
bytes and write them again unchanged. A value is returned only where both agree.
"""

from __future__ import annotations

from typing import Any

import cbor2

LIMIT = 65_536  # bytes that a device reads, and so the limit of everything without another
DEPTH = 8  # arrays and maps in each other

SELF_DESCRIBED = b"\xd9\xd9\xf7"  # tag 55799, which cbor2 reads and drops
PACKAGE_CODE = SELF_DESCRIBED + b"\xdaPDKD"  # an ordinary data package
BACKUP_CODE = SELF_DESCRIBED + b"\xdaPDKB"  # a backup data package
SIGN1 = 18  # tag of a statement


class Refused(Exception):
    """What was read is not what it has to be."""


def decode(data: bytes, what: str, limit: int = LIMIT) -> Any:
    """Give the one value that data encodes, or refuse it."""
    if len(data) > limit:
        raise Refused(f"read {what}: {len(data)} bytes are more than {limit}")
    try:
        end = _walk(data, 0, 0)
        if end != len(data):
            raise Refused(f"{len(data) - end} bytes follow the value")
    except Refused as e:
        raise Refused(f"read {what}: {e}") from None
    try:
        value = cbor2.loads(data)
        again = cbor2.dumps(value, canonical=True)
    except Exception as e:  # cbor2 also lets ValueError and others through
        raise Refused(f"read {what}: cbor2 does not read it: {e}") from e
    if data.startswith(SELF_DESCRIBED):
        again = SELF_DESCRIBED + again
    if again != data:
        raise Refused(f"read {what}: cbor2 writes it otherwise")
    return value


def encode(value: Any) -> bytes:
    """Give the one encoding of a value."""
    data = cbor2.dumps(value, canonical=True)
    _walk(data, 0, 0)
    return data


def _walk(data: bytes, at: int, depth: int) -> int:
    """Check the data item at an offset and give the offset behind it."""
    major, value, start = _head(data, at)
    if major in (0, 1):  # integer: nothing follows
        return start
    if major in (2, 3):  # byte string, text string
        end = start + value
        if end > len(data):
            raise Refused(f"at byte {at} a string of {value} bytes is cut short")
        if major == 3:
            try:
                data[start:end].decode("utf-8")
            except UnicodeDecodeError:
                raise Refused(f"at byte {at} text is not UTF-8") from None
        return end
    if major == 7:  # false, true, null
        if data[at] not in (0xF4, 0xF5, 0xF6):
            raise Refused(f"at byte {at} stands a float or another simple value")
        return start
    if major == 6:
        _tag(data, at, value)
        return _walk(data, start, depth)
    if depth == DEPTH:
        raise Refused(f"at byte {at} the nesting is deeper than {DEPTH}")
    if value > len(data) - start:  # each element takes a byte; this also bounds the loops
        raise Refused(f"at byte {at} {value} elements are announced, more than there are bytes")
    if major == 4:
        for _ in range(value):
            start = _walk(data, start, depth + 1)
        return start
    last = b""
    for _ in range(value):
        end = _walk(data, start, depth + 1)
        key = data[start:end]
        if key <= last:
            raise Refused(f"at byte {start} a map's key is not above the one before it")
        last = key
        start = _walk(data, end, depth + 1)
    return start


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Read a head: major type, argument, offset behind it."""
    if at >= len(data):
        raise Refused(f"it ends at byte {at}, before the value does")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    if info > 27:
        raise Refused(f"at byte {at - 1} a length is indefinite or reserved")
    size = 1 << (info - 24)
    if at + size > len(data):
        raise Refused(f"it ends at byte {len(data)}, before the value does")
    value = int.from_bytes(data[at : at + size], "big")
    least = 24 if size == 1 else 1 << (4 * size)
    if value < least and major != 7:
        raise Refused(f"at byte {at - 1} the number {value} is not in its shortest form")
    return major, value, at + size


def _tag(data: bytes, at: int, tag: int) -> None:
    """Admit the constant tags where they belong: in front of the whole."""
    if at == 0 and (tag == SIGN1 or data.startswith((PACKAGE_CODE, BACKUP_CODE))):
        return
    if at == len(SELF_DESCRIBED) and data.startswith((PACKAGE_CODE, BACKUP_CODE)):
        return
    raise Refused(f"at byte {at} stands tag {tag}, which is none of the formats'")
