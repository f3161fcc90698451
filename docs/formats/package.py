"""The data package, §9 of formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from cbor_strict import PACKAGE_CODE, Refused, decode, encode
from certificate import Certificate, open_certificate
from contents import open_contents
from hello import Hello
from keys import kdf1, transfer_context
from manifest import Manifest, bound_manifest
from names import record_id
from points import key_hash, point_key, public_point, scalar_key
from sealed import unseal
from statement import open_statement
from values import array, octets, version


def transcript(m1: bytes, point: bytes, claims: bytes) -> bytes:
    return sha256(encode([m1, point, claims])).digest()


def admit(c: Certificate, floor: int, unlock: bytes | None, rom_key: bytes) -> None:
    """Check a package's generation, as a chip with this floor does; where it is locked, by its unlock statement."""
    if c.generation <= floor:
        raise Refused(f"certificate: generation {c.generation} is not above the floor, {floor}")
    if unlock is None:
        return
    said = open_statement(unlock, "unlock+cbor", rom_key, "unlock statement")
    if c.generation < 2 or said != encode([1, c.realm, record_id(c.chip_id), c.generation]):
        raise Refused("unlock statement: it is for another chip, realm or generation")


@dataclass(frozen=True)
class Opened:
    certificate: Certificate
    manifest: Manifest
    values: dict[str, bytes]
    transcript: bytes


def open_package(data: bytes, hello: Hello, d: bytes, rom_key: bytes, floor: int = 0, unlock: bytes | None = None) -> Opened:
    """Check an ordinary package, in the order of §9, as the device does that sent the hello."""
    what = "data package"
    if not data.startswith(PACKAGE_CODE):
        raise Refused(f"{what}: it does not begin with the code of an ordinary package")
    own = scalar_key(d, "ephemeral key")
    if public_point(own) != hello.point:
        raise Refused("ephemeral key: it is not that of the hello")
    if hello.rom_key_hash != key_hash(rom_key):
        raise Refused("hello: it names another ROM key")
    v, point, raw, manifest, wrapped, secrets = array(decode(data, what).value, 6, what)
    version(v, what)
    if type(raw) is not bytes:
        raise Refused(f"{what}: the certificate is no byte string")
    c = open_certificate(raw, rom_key)
    if (c.chip_id, c.realm) != (hello.chip_id, hello.realm):
        raise Refused(f"{what}: it is for another chip or realm")
    admit(c, floor, unlock, rom_key)
    m = bound_manifest(manifest, c)
    octets(point, (65,), f"{what}: point")
    agreed = own.exchange(ec.ECDH(), point_key(point, f"{what}: point"))
    t = transcript(hello.m1, point, c.payload)
    plain: list[Any] = []
    if m.of_form("secret"):
        key = kdf1(agreed, transfer_context(hello.suite, "pkg", t))
        plain = decode(unseal(key, secrets, ["dk-package", 1, t], "secrets"), "secrets")
    elif secrets is not None:
        raise Refused(f"{what}: it has secrets that the manifest does not name")
    kek = kdf1(agreed, transfer_context(hello.suite, "kek", t))
    return Opened(c, m, open_contents(m, kek, wrapped, plain), t)
