"""The identity certificate, §5 of formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from cbor_strict import Refused, decode, encode
from names import CHIP_ID_SIZES, chip_id_of, identity_of, urn
from statement import open_statement
from values import generation_of, number, octets, realm_of

CERTIFICATE_LIMIT = 512


@dataclass(frozen=True)
class Certificate:
    payload: bytes  # the claims, encoded
    identity: tuple[int, str]
    issued_at: int
    chip_id: bytes
    realm: int
    generation: int
    manifest: bytes  # its SHA-256

    @property
    def urn(self) -> str:
        return urn(*self.identity)

    @property
    def claims_hash(self) -> bytes:
        return sha256(self.payload).digest()


def encode_claims(name: str, issued_at: int, chip_id: bytes, realm: int, generation: int, manifest: bytes) -> bytes:
    return encode(
        {
            2: name,
            6: issued_at,
            256: b"\x01" + chip_id,
            -65537: realm,
            -65538: generation.to_bytes(4, "big"),
            -65539: manifest,
        }
    )


def open_certificate(data: bytes, rom_key: bytes) -> Certificate:
    what = "certificate"
    payload = open_statement(data, "identity+cwt", rom_key, what, CERTIFICATE_LIMIT)
    claims = decode(payload, f"{what}: claims")
    if type(claims) is not dict or set(claims) != {2, 6, 256, -65537, -65538, -65539}:
        raise Refused(f"{what}: its claims are not exactly the six")
    if type(claims[2]) is not str:
        raise Refused(f"{what}: the subject is no text")
    ueid = octets(claims[256], [1 + n for n in CHIP_ID_SIZES], f"{what}: ueid")
    if ueid[0] != 1:
        raise Refused(f"{what}: the ueid is not of type 1")
    return Certificate(
        payload=payload,
        identity=identity_of(claims[2]),
        issued_at=number(claims[6], 2**16, 2**32 - 1, f"{what}: issued at"),
        chip_id=chip_id_of(ueid[1:], what),
        realm=realm_of(claims[-65537], what),
        generation=generation_of(int.from_bytes(octets(claims[-65538], (4,), f"{what}: generation"), "big"), what),
        manifest=octets(claims[-65539], (32,), f"{what}: manifest"),
    )
