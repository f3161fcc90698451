"""The golden values of §3 to §5 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cbor_strict import Refused, encode
from certificate import open_certificate
from golden import IDENTITY_URN, ISSUED_AT, Golden, certificate, statement
from names import record_id
from points import key_hash
from statement import protected


def identity(g: Golden) -> None:
    rom, chip_id = g.given("rom_key_point"), g.given("chip_id")
    g.compare("rom_key_hash", key_hash(rom))
    g.compare("record_id", record_id(chip_id))
    golden = g.bytes("certificate")
    made = certificate(rom, chip_id, 1, golden)
    g.compare("certificate", made)
    payload = open_certificate(made, rom).payload
    g.compare("claims", payload)
    g.compare("claims_hash", sha256(payload).digest())
    unlock = encode([1, 1, record_id(chip_id), 2])
    g.compare("unlock", statement(rom, "unlock+cbor", unlock, g.bytes("unlock")))
    layout(g, made, rom, chip_id, payload)


def layout(g: Golden, made: bytes, rom: bytes, chip_id: bytes, payload: bytes) -> None:
    head = protected(rom, "identity+cwt")
    fields = {
        "certificate": (0, len(made)),
        "protected": (made.index(head), len(head)),
        "payload": (made.index(payload), len(payload)),
        "subject": (made.index(IDENTITY_URN.encode()), len(IDENTITY_URN)),
        "issued_at": (made.index(ISSUED_AT.to_bytes(4, "big")), 4),
        "chip_id": (made.index(chip_id), len(chip_id)),
        "realm": (made.index(encode(-65537)) + 5, 1),
        "generation": (made.index(encode(-65538)) + 6, 4),
        "manifest": (made.index(encode(-65539)) + 7, 32),
        "signature": (len(made) - 64, 64),
    }
    for name, (offset, length) in fields.items():
        g.compare(f"layout.{name}.Offset", offset)
        g.compare(f"layout.{name}.Length", length)
    # What a boot ROM hashes, by the offsets of §5.
    p, n = len(head), len(encode(payload))
    signed = b"\x84\x6aSignature1" + made[2 : 4 + p] + b"\x40" + made[5 + p : 5 + p + n]
    if signed != encode(["Signature1", head, b"", payload]):
        raise Refused(f"{g.name}: a boot ROM would hash something else than what is signed")
