"""The program's commands: each checks all it can before it shows or writes anything."""

from __future__ import annotations

import argparse
from pathlib import Path

import vectors as golden
from backup import open_backup, read_backup
from cbor_strict import Refused, decode
from certificate import Certificate, open_certificate
from files import Usage, read, read_public, read_secret, write
from hello import HELLO_LIMIT, read_hello
from manifest import KINDS, Manifest
from names import record_id
from package import open_package
from registry import ENTRY_LIMIT, ERASE, SCRAP, TYPES, check_record, check_withdrawal, open_entry, read_registry_entry
from statement import open_statement


def show(**fields: object) -> None:
    for name, value in fields.items():
        shown = value.hex() if isinstance(value, bytes) else value
        print(f"{name.replace('_', ' ')}: {shown}")


def show_certificate(c: Certificate) -> None:
    show(subject=c.urn, realm=c.realm, generation=c.generation, issued_at=c.issued_at)
    show(record_id=record_id(c.chip_id), claims_hash=c.claims_hash)


def show_contents(m: Manifest, values: dict[str, bytes], out: Path | None) -> None:
    if out is not None:
        try:
            out.mkdir(mode=0o700)
        except OSError as e:
            raise Usage(f"make folder {str(out)!r}: {e.strerror}") from e
    for e in m.entries:
        print(f"entry: {e.name}, {KINDS[e.kind][0]}, {e.form}: as the manifest says")
        if out is not None:
            write(out / e.name, values[e.name])


def check(a: argparse.Namespace) -> None:
    rom_key = read_public(a.rom_key)
    bad = 0
    for path in a.certificates:
        if len(a.certificates) > 1:
            show(file=path)
        try:
            c = open_certificate(read(path), rom_key)
            if a.chip_id is not None and c.chip_id != a.chip_id:
                raise Refused("certificate: it is of another chip")
            if a.backup is not None:
                read_backup(read(a.backup), c)
            show_certificate(c)
        except Refused as e:
            if len(a.certificates) == 1:
                raise
            bad += 1
            show(refused=e)
    if bad:
        raise Refused(f"{bad} of {len(a.certificates)} certificates")


def open_(a: argparse.Namespace) -> None:
    rom_key = read_public(a.rom_key)
    e = read_registry_entry(read(a.entry, ENTRY_LIMIT))
    if a.generation is not None and e.generation != a.generation:
        raise Refused(f"entry: it is of generation {e.generation}, not {a.generation}")
    if e.kind in (SCRAP, ERASE):
        if e.record_id != record_id(a.chip_id):
            raise Refused("entry: its record id is not that of this chip")
        check_withdrawal(e, rom_key)
        show(type=TYPES[e.kind], realm=e.realm, record_id=e.record_id, generation=e.generation, leaf_hash=e.leaf_hash)
        raise Refused(f"entry: the maker says {TYPES[e.kind]}: there is nothing to restore")
    r = open_entry(e, a.chip_id)
    c = check_record(r, e, rom_key)
    show(type=TYPES[e.kind], leaf_hash=e.leaf_hash)
    show_certificate(c)
    for path, data in ((a.certificate, r.certificate), (a.backup, r.backup)):
        if path is not None:
            write(path, data)


def restore(a: argparse.Namespace) -> None:
    c = open_certificate(read(a.certificate), read_public(a.rom_key))
    if a.chip_id is not None and c.chip_id != a.chip_id:
        raise Refused("certificate: it is of another chip")
    m, values = open_backup(read(a.backup), c, read_secret(a.chip_key))
    show_certificate(c)
    show_contents(m, values, a.out)


def package(a: argparse.Namespace) -> None:
    raw = read(a.hello, HELLO_LIMIT)
    if a.attestation_key is not None:
        raw = open_statement(raw, "attestation+cbor", read_public(a.attestation_key), "hello")
    hello = read_hello(raw)
    if (hello.suite == 1) != (a.attestation_key is not None):
        raise Refused("hello: suite 1 comes signed and needs --attestation-key, suite 2 has no signature")
    rom_key = read_public(a.rom_key)
    unlock = None if a.unlock is None else read(a.unlock)
    opened = open_package(read(a.package), hello, read_secret(a.private_d), rom_key, a.floor, unlock)
    show_certificate(opened.certificate)
    show(transcript=opened.transcript)
    show_contents(opened.manifest, opened.values, a.out)


def canonical(a: argparse.Namespace) -> None:
    bad = 0
    for path in a.files:
        try:
            decode(read(path, a.limit), "CBOR", a.limit)
            print(f"{path}: canonical")
        except Refused as e:
            bad += 1
            print(f"{path}: {e}")
    if bad:
        raise Refused(f"{bad} of {len(a.files)} files are not canonical CBOR")


def vectors(a: argparse.Namespace) -> None:
    try:
        golden.compare_all(a.folder)
    except OSError as e:
        raise Usage(f"read {e.filename!r}: {e.strerror}") from e
