#!/usr/bin/python3
"""A second implementation of the formats of Devicekeys: verifier and restorer.

Written from docs/formats.md and sharing no code with the product: what the product
writes must be readable by anyone who has that page. Needs Debian's python3-cbor2 and
python3-cryptography.

    cbor_strict.py   deterministic CBOR
    formats.py       the formats
    channel.py       the secure channel's
    message.py       messages to a device
    vectors.py       the golden values, made again
    devicekeys.py    this program

It reads files and writes only where an option names a file or folder. It is a reading
aid and a cross-check, no place for keys in use: Python wipes no memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.dont_write_bytecode = True  # leave no __pycache__ in the source tree

try:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    import formats
    import vectors as golden
    from cbor_strict import LIMIT, Refused, decode
    from formats import Certificate, Manifest
except ImportError as e:
    print(f"devicekeys.py: {e}; on Debian: apt-get install python3-cbor2 python3-cryptography", file=sys.stderr)
    sys.exit(2)

# ---- Files.

KEY_FILE_LIMIT = 4096


class Usage(Exception):
    """What was asked for can't be tried."""


def read(path: Path, limit: int = LIMIT) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(limit + 1)
    except OSError as e:
        raise Usage(f"read {str(path)!r}: {e.strerror}") from e
    if len(data) > limit:
        raise Refused(f"read {str(path)!r}: it has more than {limit} bytes")
    return data


def write(path: Path, data: bytes) -> None:
    """Make a file for its owner alone; an existing one stays."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(data)
    except OSError as e:
        raise Usage(f"write {str(path)!r}: {e.strerror}") from e


def read_public(path: Path) -> bytes:
    """Read a public key: PEM, DER, or the point itself; give its point."""
    data = read(path, KEY_FILE_LIMIT)
    try:
        if data.startswith(b"-----"):
            data = load_pem_public_key(data).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError:
        raise Usage(f"read {str(path)!r}: it is no public key in PEM") from None
    point = data[len(formats.SPKI_HEAD) :] if data.startswith(formats.SPKI_HEAD) else data
    formats.point_key(point, f"key in {str(path)!r}")
    return point


def read_secret(path: Path) -> bytes:
    """Read 32 secret bytes, as they are or as 64 hexadecimal digits."""
    data = read(path, KEY_FILE_LIMIT)
    if len(data) != 32:
        try:
            data = bytes.fromhex(data.decode("ascii"))
        except ValueError:
            pass
    if len(data) != 32:
        raise Usage(f"read {str(path)!r}: 32 bytes or 64 hexadecimal digits are expected")
    return data


def hex_chip_id(digits: str) -> bytes:
    try:
        return formats.chip_id_of(bytes.fromhex(digits), "--chip-id")
    except (ValueError, Refused):
        raise argparse.ArgumentTypeError("16, 24 or 32 bytes in hexadecimal, not all zero, are expected") from None


# ---- Commands.


def show(**fields: object) -> None:
    for name, value in fields.items():
        shown = value.hex() if isinstance(value, bytes) else value
        print(f"{name.replace('_', ' ')}: {shown}")


def show_certificate(c: Certificate) -> None:
    show(subject=c.urn, realm=c.realm, generation=c.generation, issued_at=c.issued_at)
    show(record_id=formats.record_id(c.chip_id), claims_hash=c.claims_hash)


def show_contents(m: Manifest, values: dict[str, bytes], out: Path | None) -> None:
    if out is not None:
        try:
            out.mkdir(mode=0o700)
        except OSError as e:
            raise Usage(f"make folder {str(out)!r}: {e.strerror}") from e
    for e in m.entries:
        print(f"entry: {e.name}, {formats.KINDS[e.kind][0]}, {e.form}: as the manifest says")
        if out is not None:
            write(out / e.name, values[e.name])


def check(a: argparse.Namespace) -> None:
    rom_key = read_public(a.rom_key)
    bad = 0
    for path in a.certificates:
        if len(a.certificates) > 1:
            show(file=path)
        try:
            c = formats.open_certificate(read(path), rom_key)
            if a.chip_id is not None and c.chip_id != a.chip_id:
                raise Refused("certificate: it is of another chip")
            if a.backup is not None:
                formats.read_backup(read(a.backup), c)
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
    e = formats.read_registry_entry(read(a.entry, formats.ENTRY_LIMIT))
    if a.generation is not None and e.generation != a.generation:
        raise Refused(f"entry: it is of generation {e.generation}, not {a.generation}")
    if e.kind in (formats.SCRAP, formats.ERASE):
        if e.record_id != formats.record_id(a.chip_id):
            raise Refused("entry: its record id is not that of this chip")
        formats.check_withdrawal(e, rom_key)
        show(type=formats.TYPES[e.kind], realm=e.realm, record_id=e.record_id, generation=e.generation, leaf_hash=e.leaf_hash)
        raise Refused(f"entry: the maker says {formats.TYPES[e.kind]}: there is nothing to restore")
    r = formats.open_entry(e, a.chip_id)
    c = formats.check_record(r, e, rom_key)
    show(type=formats.TYPES[e.kind], leaf_hash=e.leaf_hash)
    show_certificate(c)
    for path, data in ((a.certificate, r.certificate), (a.backup, r.backup)):
        if path is not None:
            write(path, data)


def restore(a: argparse.Namespace) -> None:
    c = formats.open_certificate(read(a.certificate), read_public(a.rom_key))
    if a.chip_id is not None and c.chip_id != a.chip_id:
        raise Refused("certificate: it is of another chip")
    m, values = formats.open_backup(read(a.backup), c, read_secret(a.chip_key))
    show_certificate(c)
    show_contents(m, values, a.out)


def package(a: argparse.Namespace) -> None:
    raw = read(a.hello, formats.HELLO_LIMIT)
    if a.attestation_key is not None:
        raw = formats.open_statement(raw, "attestation+cbor", read_public(a.attestation_key), "hello")
    hello = formats.read_hello(raw)
    if (hello.suite == 1) != (a.attestation_key is not None):
        raise Refused("hello: suite 1 comes signed and needs --attestation-key, suite 2 has no signature")
    rom_key = read_public(a.rom_key)
    unlock = None if a.unlock is None else read(a.unlock)
    opened = formats.open_package(read(a.package), hello, read_secret(a.private_d), rom_key, a.floor, unlock)
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


DESCRIPTION = """\
Verify and restore what Devicekeys makes, by an implementation of its own.

A session: fetch a device's entry, open it by the chip's ID, and open the backup with a
software chip's key.

  $ curl -o entry https://registry.example/records/RECORD-ID
  $ devicekeys.py open entry --chip-id HEX --rom-key rom.pem \\
        --certificate certificate --backup backup
  $ devicekeys.py restore backup --certificate certificate --rom-key rom.pem \\
        --chip-key chip.key
"""

EPILOG = """\
Exit codes: 0 all holds; 1 something was refused, and standard error says what and why;
2 it could not be tried: wrong usage, an unreadable file, a package missing.

The formats are in docs/formats.md. A ROM key is its PEM, DER or point; a chip key is 32
bytes or 64 hexadecimal digits, in a file since arguments are seen by others. A software
chip has its key in its file, a CBOR array, as the fourth element; other chips let none out.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> Parser:
    p = Parser(prog="devicekeys.py", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
               formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, run: Any, help: str) -> Parser:
        c = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False)
        c.set_defaults(run=run)
        return c

    def rom_key(c: Parser) -> None:
        c.add_argument("--rom-key", type=Path, required=True, metavar="FILE", help="the maker's ROM key")

    def chip_id(c: Parser, required: bool) -> None:
        c.add_argument("--chip-id", type=hex_chip_id, required=required, metavar="HEX", help="the chip's ID")

    def out(c: Parser) -> None:
        c.add_argument("--out", type=Path, metavar="FOLDER", help="make this folder and write each value into it, in clear")

    c = command("check", check, "check identity certificates, and that a backup is the one that one of them names")
    c.add_argument("certificates", type=Path, nargs="+", metavar="certificate")
    rom_key(c)
    chip_id(c, required=False)
    c.add_argument("--backup", type=Path, metavar="FILE", help="check its manifest too; its secrets stay closed")

    c = command("open", open_, "open a registry entry by chip ID, and check what it holds")
    c.add_argument("entry", type=Path)
    chip_id(c, required=True)
    rom_key(c)
    c.add_argument("--generation", type=int, metavar="N", help="refuse any other")
    c.add_argument("--certificate", type=Path, metavar="FILE", help="write the certificate here")
    c.add_argument("--backup", type=Path, metavar="FILE", help="write the backup here")

    c = command("restore", restore, "open a backup with a chip's key, and check every entry")
    c.add_argument("backup", type=Path)
    c.add_argument("--certificate", type=Path, required=True, metavar="FILE", help="what the device keeps beside the backup")
    rom_key(c)
    c.add_argument("--chip-key", type=Path, required=True, metavar="FILE", help="the software chip's key")
    chip_id(c, required=False)
    out(c)

    c = command("package", package, "open an ordinary data package as the device that asked for it")
    c.add_argument("package", type=Path)
    c.add_argument("--hello", type=Path, required=True, metavar="FILE", help="what the device sent")
    c.add_argument("--private-d", type=Path, required=True, metavar="FILE", help="scalar of the hello's point")
    rom_key(c)
    c.add_argument("--attestation-key", type=Path, metavar="FILE", help="of suite 1: the chip's, checks the hello")
    c.add_argument("--floor", type=int, default=0, metavar="N", help="the last generation that the chip accepted (default 0)")
    c.add_argument("--unlock", type=Path, metavar="FILE", help="a locked device's unlock statement")
    out(c)

    c = command("canonical", canonical, "check that files are deterministic CBOR, by two readers")
    c.add_argument("files", type=Path, nargs="+", metavar="file")
    c.add_argument("--limit", type=int, default=LIMIT, metavar="BYTES", help=f"size limit of a file (default {LIMIT})")

    c = command("vectors", vectors, "make every golden value again and compare")
    c.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parents[2],
                   help="the source tree (default: the one this file is in)")
    return p


def main() -> int:
    a = parser().parse_args()
    try:
        a.run(a)
    except Refused as e:
        print(f"devicekeys.py: refused: {e}", file=sys.stderr)
        return 1
    except Usage as e:
        print(f"devicekeys.py: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
