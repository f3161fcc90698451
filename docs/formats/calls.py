"""Calls to the device service, §18 of formats.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cbor_strict import Refused, decode, encode
from values import array, number, octets, text, version

BODY_LIMIT, MESSAGE_LIMIT = 262_144, 262_144 + 128
ID_LIMIT = 2**64 - 1
OK, UNKNOWN, NO_BODY, REFUSED, BUSY, FAILED = range(6)


def request(number_: int, method: str, body: bytes) -> bytes:
    return encode([1, number_, method, body])


def answer(number_: int, status: int, body: bytes) -> bytes:
    return encode([1, number_, status, body])


def read_call(data: bytes) -> tuple[int, Any, bytes]:
    """Read a request or an answer: its id, the method or the status, the body."""
    what = "call"
    v, id_, which, body = array(decode(data, what, MESSAGE_LIMIT), 4, what)
    version(v, what)
    number(id_, 1, ID_LIMIT, f"{what}: id")
    if type(which) is str:
        text(which, r"[a-z0-9-]{1,32}", f"{what}: method")
    else:
        number(which, OK, FAILED, f"{what}: status")
    return id_, which, octets(body, range(BODY_LIMIT + 1), f"{what}: body")


# What the page prints at the end of §18, by the words before each value.
PRINTED = {
    'request `echo` "hi"': request(1, "echo", b"hi"),
    "answer 300, refused": answer(300, REFUSED, b""),
    "status 2 of 3, not active": encode([1, 2, 3, False]),
    "time": encode([1, 1_700_000_000_123]),
    "retry in 2 s": encode([1, 2]),
}


def compare(page: Path) -> None:
    section = page.read_text("utf-8").split("\n## 18. ")[1]
    line = section.split("\nVectors: ")[1].replace("\n", " ")
    for words, made in PRINTED.items():
        found = re.search(re.escape(words) + r" `([0-9a-f ]+)`", line)
        if not found or bytes.fromhex(found.group(1)) != made:
            raise Refused(f"{page.name} §18: {words}: made again it is {made.hex()}")
    read_call(PRINTED['request `echo` "hi"'])
    read_call(PRINTED["answer 300, refused"])
    print(f"{page.name} §18: {len(PRINTED)} values made again")
