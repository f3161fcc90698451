"""As much of DER (X.690) as a device certificate takes, §15 of formats.md: writing only."""

from __future__ import annotations


def item(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*contents: bytes) -> bytes:
    return item(0x30, *contents)


def integer(value: int) -> bytes:
    return item(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(content: bytes) -> bytes:
    return item(0x04, content)


def bit_string(content: bytes, unused: int = 0) -> bytes:
    return item(0x03, bytes([unused]), content)


def oid(dotted: str) -> bytes:
    first, second, *rest = (int(n) for n in dotted.split("."))
    out = b""
    for n in (40 * first + second, *rest):
        digits = [n & 0x7F]
        while n := n >> 7:
            digits.append(n & 0x7F | 0x80)
        out += bytes(reversed(digits))
    return item(0x06, out)


def printable(text: str) -> bytes:
    return item(0x13, text.encode("ascii"))
