"""The golden values of §11 of formats.md."""

from __future__ import annotations

from cbor_strict import Refused, decode, encode
from golden import IDENTITY_URN, Golden, certificate, statement
from names import record_id
from registry import CERTIFICATES, ERASE, REGISTER, SCRAP, SUPERSEDE, Record, RegistryEntry, check_withdrawal, open_entry, read_public_certificates, read_registry_entry, record_key
from sealed import seal


def registry(g: Golden) -> None:
    chip_id, rom, nonce = g.given("chip_id"), g.given("rom_key"), g.given("nonce")
    g.compare("record_id", record_id(chip_id))
    backup, x509 = g.given("record.backup"), g.given("record.x509.0")
    signed = certificate(rom, chip_id, 2, g.bytes("record.certificate"))
    g.compare("record.certificate", signed)
    full = Record(signed, backup, (x509,))
    g.compare("record.encoded", full.encode())
    first = open_entry(read_registry_entry(g.bytes("register.entry")), chip_id)
    signed = certificate(rom, chip_id, 1, first.certificate)
    sealed_entry(g, "register", REGISTER, 1, Record(signed, backup, ()), chip_id, nonce)
    sealed_entry(g, "supersede", SUPERSEDE, 2, full, chip_id, nonce)
    withdrawal(g, "scrap", SCRAP, 2, rom, chip_id)
    withdrawal(g, "erase", ERASE, 1, rom, chip_id)
    published(g, chip_id)

    key, entries = g.given("submission.key"), [g.bytes("register.entry"), g.bytes("scrap.entry")]
    payload = encode([1, 1, "spp-1", entries])
    g.compare("submission.payload", payload)
    g.compare("submission.statement", statement(key, "submission+cbor", payload, g.bytes("submission.statement")))
    _, _, missing = decode(g.bytes("batch"), "batch")
    g.compare("batch", encode([1, [[3, g.bytes("scrap.entry")]], missing]))
    refused(g)


def place(g: Golden, name: str, e: RegistryEntry) -> None:
    g.compare(f"{name}.generation", e.generation)
    g.compare(f"{name}.entry", e.encode())
    g.compare(f"{name}.leaf", e.leaf)
    g.compare(f"{name}.leaf_hash", e.leaf_hash)


def sealed_entry(g: Golden, name: str, kind: int, generation: int, r: Record, chip_id: bytes, nonce: bytes) -> None:
    e = RegistryEntry(1, kind, record_id(chip_id), generation, b"", b"")
    g.compare(f"{name}.seal_context", encode(e.place))
    sealed = encode(seal(record_key(chip_id, e), nonce, e.place, r.encode()))
    g.compare(f"{name}.sealed", sealed)
    place(g, name, RegistryEntry(1, kind, e.record_id, generation, sealed, b""))


def withdrawal(g: Golden, name: str, kind: int, generation: int, rom: bytes, chip_id: bytes) -> None:
    leaf = RegistryEntry(1, kind, record_id(chip_id), generation, b"", b"").leaf
    signed = statement(rom, "registry+cbor", leaf, g.bytes(f"{name}.statement"))
    g.compare(f"{name}.statement", signed)
    e = RegistryEntry(1, kind, record_id(chip_id), generation, b"", signed)
    check_withdrawal(e, rom)
    place(g, name, e)


def published(g: Golden, chip_id: bytes) -> None:
    """A certificates entry, which everyone reads."""
    name = "certificates"
    x = g.given("record.x509.0")
    content = encode([1, IDENTITY_URN, [x]])
    if read_public_certificates(content) != (IDENTITY_URN, [x]):
        raise Refused(f"{g.name}: what was published reads otherwise")
    g.compare(f"{name}.sealed", content)
    place(g, name, RegistryEntry(1, CERTIFICATES, record_id(chip_id), 2, content, b""))


def refused(g: Golden) -> None:
    """The entries that no reader may take."""
    for path in [p for p in g.values if p.startswith("refused.") and p.endswith(".entry")]:
        case = path.removesuffix(".entry") + ".case"
        try:
            read_registry_entry(g.bytes(path))
        except Refused:
            g.made |= {path, case}
        else:
            raise Refused(f"{g.name}: an entry with {g.raw(case)} was not refused")
