"""Registry entries and records, §11 of formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backup import read_backup
from cbor_strict import LIMIT, Refused, decode, encode
from certificate import CERTIFICATE_LIMIT, Certificate, open_certificate
from names import record_id
from sealed import unseal
from statement import open_statement
from values import array, generation_of, items, number, octets, realm_of, same, version

REGISTER, SUPERSEDE, SCRAP, ERASE, CERTIFICATES = 1, 2, 3, 4, 5
TYPES = {REGISTER: "register", SUPERSEDE: "supersede", SCRAP: "scrap", ERASE: "erase", CERTIFICATES: "certificates"}
ENTRY_LIMIT = 65_535
STATEMENT_LIMIT = 512


@dataclass(frozen=True)
class RegistryEntry:
    realm: int
    kind: int
    record_id: bytes
    generation: int
    sealed: bytes
    statement: bytes

    @property
    def place(self) -> list[Any]:
        """What the entry says in clear; also the associated data of its record."""
        return [1, self.realm, self.kind, self.record_id, self.generation]

    def encode(self) -> bytes:
        return encode([*self.place, self.sealed, self.statement])

    @property
    def leaf(self) -> bytes:
        return encode([*self.place, sha256(self.sealed).digest()])

    @property
    def leaf_hash(self) -> bytes:
        return sha256(b"\0" + self.leaf).digest()


def read_registry_entry(data: bytes) -> RegistryEntry:
    what = "entry"
    v, realm, kind, record, generation, sealed, statement = array(decode(data, what, ENTRY_LIMIT), 7, what)
    version(v, what)
    e = RegistryEntry(
        realm_of(realm, what),
        number(kind, 1, 5, f"{what}: type"),
        octets(record, (32,), f"{what}: record id"),
        generation_of(generation, what),
        octets(sealed, range(ENTRY_LIMIT), f"{what}: sealed record"),
        octets(statement, range(STATEMENT_LIMIT + 1), f"{what}: statement"),
    )
    if not any(e.record_id):
        raise Refused(f"{what}: the record id is all zero")
    if e.kind in (REGISTER, SUPERSEDE):
        if not e.sealed or e.statement:
            raise Refused(f"{what}: {TYPES[e.kind]} has a sealed record and no statement")
    elif e.kind == CERTIFICATES:
        if e.statement:
            raise Refused(f"{what}: {TYPES[e.kind]} has no statement")
        read_public_certificates(e.sealed)
    elif e.sealed or not e.statement:
        raise Refused(f"{what}: {TYPES[e.kind]} has a statement and no sealed record")
    return e


def read_public_certificates(data: bytes) -> tuple[str, list[bytes]]:
    """What a certificates entry has in the place of a sealed record."""
    what = "certificates"
    v, urn, certificates = array(decode(data, what, ENTRY_LIMIT), 3, what)
    version(v, what)
    if not isinstance(urn, str) or len(urn) > 128 or any(not "!" <= c <= "~" or c == "/" for c in urn):
        raise Refused(f"{what}: the identity is no URN")
    if not isinstance(certificates, list) or not 1 <= len(certificates) <= 8:
        raise Refused(f"{what}: 1 to 8 are expected")
    return urn, [octets(c, range(1, 2049), f"{what}: certificate") for c in certificates]


def record_key(chip_id: bytes, e: RegistryEntry) -> bytes:
    info = encode(["dk-record-seal", 1, e.realm, e.generation])
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(chip_id)


@dataclass(frozen=True)
class Record:
    certificate: bytes
    backup: bytes
    x509: tuple[bytes, ...]

    def encode(self) -> bytes:
        return encode([1, self.certificate, self.backup, list(self.x509)])


def open_entry(e: RegistryEntry, chip_id: bytes) -> Record:
    """Open a registry entry with the ID of the chip that it is about."""
    if e.record_id != record_id(chip_id):
        raise Refused("entry: its record id is not that of this chip")
    if not e.sealed:
        raise Refused(f"entry: of type {TYPES[e.kind]}, it holds no record")
    plain = unseal(record_key(chip_id, e), decode(e.sealed, "sealed record"), e.place, "sealed record")
    v, certificate, backup, x509 = array(decode(plain, "record"), 4, "record")
    version(v, "record")
    octets(certificate, range(1, CERTIFICATE_LIMIT + 1), "record: certificate")
    octets(backup, range(1, LIMIT + 1), "record: backup")
    chain = tuple(octets(x, range(1, LIMIT), "record: X.509 certificate") for x in items(x509, 0, 8, "record: X.509"))
    return Record(certificate, backup, chain)


def check_record(r: Record, e: RegistryEntry, rom_key: bytes) -> Certificate:
    """Check that a record belongs where it stands, and is signed by the maker."""
    c = open_certificate(r.certificate, rom_key)
    if (c.realm, record_id(c.chip_id), c.generation) != (e.realm, e.record_id, e.generation):
        raise Refused("record: its certificate is of another chip, realm or generation than its entry")
    read_backup(r.backup, c)
    return c


def check_withdrawal(e: RegistryEntry, rom_key: bytes) -> None:
    """Check the statement of a scrap or erase entry, without which it means nothing."""
    if not same(open_statement(e.statement, "registry+cbor", rom_key, "entry's statement"), e.leaf):
        raise Refused("entry's statement: it is about another entry")
