"""Names, §3 of formats.md: identities, chip IDs, record ids."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from cbor_strict import Refused
from values import octets, text

IMEI, EUI48, EUI64, SERIAL = 1, 2, 3, 4
CHIP_ID_SIZES = (16, 24, 32)


def eui(name: str, digits: int, what: str) -> None:
    text(name, f"[0-9a-f]{{{digits}}}", what)
    if int(name[:2], 16) & 1:
        raise Refused(f"{what}: a group address identifies no device")
    if not name.strip("0"):
        raise Refused(f"{what}: all digits are zero")


def urn(kind: int, name: str) -> str:
    """Give the URN of an identity's canonical text."""
    if kind == IMEI:
        text(name, r"[0-9]{14}", "IMEI")
        return f"urn:gsma:imei:{name[:8]}-{name[8:]}-0"
    if kind == EUI48:
        eui(name, 12, "EUI-48")
        return f"urn:dev:mac:{name[:6]}fffe{name[6:]}"
    if kind == EUI64:
        eui(name, 16, "EUI-64")
        if name[6:10] == "fffe":
            raise Refused("EUI-64: fffe in the middle is the form of an EUI-48")
        return f"urn:dev:mac:{name}"
    if kind == SERIAL:
        text(name, r"[1-9][0-9]{0,9}-[A-Z0-9.]{1,32}", "serial number")
        return f"urn:dev:os:{name}"
    raise Refused(f"identity: type {kind} is not known")


def identity_of(name: str) -> tuple[int, str]:
    """Give type and canonical text of the identity with a URN."""
    forms = (
        (IMEI, r"urn:gsma:imei:([0-9]{8})-([0-9]{6})-0"),
        (EUI48, r"urn:dev:mac:([0-9a-f]{6})fffe([0-9a-f]{6})"),
        (EUI64, r"urn:dev:mac:([0-9a-f]{16})"),
        (SERIAL, r"urn:dev:os:(.+)"),
    )
    for kind, form in forms:
        match = re.fullmatch(form, name, re.ASCII)
        if match:
            found = "".join(match.groups())
            urn(kind, found)
            return kind, found
    raise Refused("identity: the URN is of no known form")


def chip_id_of(value: Any, what: str) -> bytes:
    chip_id = octets(value, CHIP_ID_SIZES, f"{what}: chip ID")
    if not any(chip_id):
        raise Refused(f"{what}: the chip ID is all zero")
    return chip_id


def record_id(chip_id: bytes) -> bytes:
    return sha256(b"dk-record" + chip_id).digest()
