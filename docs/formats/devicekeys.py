#!/usr/bin/python3
"""A second implementation of the formats of Devicekeys: verifier and restorer.

Written from docs/formats.md and sharing no code with the product: what the product
writes must be readable by anyone who has that page. Needs Debian's python3-cbor2 and
python3-cryptography.

    cbor_strict.py                      deterministic CBOR
    values.py, points.py, names.py      §1, §3
    statement.py, certificate.py        §4, §5
    manifest.py, keys.py, contents.py   §6, §7
    hello.py, package.py, backup.py     §8 to §10; what they seal in sealed.py
    registry.py, channel.py             §11, §14
    message.py                          §16
    golden.py, golden_….py, vectors.py  the golden values, made again
    files.py, commands.py               what this program does

It reads files and writes only where an option names a file or folder. It is a reading
aid and a cross-check, no place for keys in use: Python wipes no memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.dont_write_bytecode = True  # leave no __pycache__ in the source tree

try:
    import commands as do
    from cbor_strict import LIMIT, Refused
    from files import Usage
    from names import chip_id_of
except ImportError as e:
    print(f"devicekeys.py: {e}; on Debian: apt-get install python3-cbor2 python3-cryptography", file=sys.stderr)
    sys.exit(2)


def hex_chip_id(digits: str) -> bytes:
    try:
        return chip_id_of(bytes.fromhex(digits), "--chip-id")
    except (ValueError, Refused):
        raise argparse.ArgumentTypeError("16, 24 or 32 bytes in hexadecimal, not all zero, are expected") from None


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

    c = command("check", do.check, "check identity certificates, and that a backup is the one that one of them names")
    c.add_argument("certificates", type=Path, nargs="+", metavar="certificate")
    rom_key(c)
    chip_id(c, required=False)
    c.add_argument("--backup", type=Path, metavar="FILE", help="check its manifest too; its secrets stay closed")

    c = command("open", do.open_, "open a registry entry by chip ID, and check what it holds")
    c.add_argument("entry", type=Path)
    chip_id(c, required=True)
    rom_key(c)
    c.add_argument("--generation", type=int, metavar="N", help="refuse any other")
    c.add_argument("--certificate", type=Path, metavar="FILE", help="write the certificate here")
    c.add_argument("--backup", type=Path, metavar="FILE", help="write the backup here")

    c = command("restore", do.restore, "open a backup with a chip's key, and check every entry")
    c.add_argument("backup", type=Path)
    c.add_argument("--certificate", type=Path, required=True, metavar="FILE", help="what the device keeps beside the backup")
    rom_key(c)
    c.add_argument("--chip-key", type=Path, required=True, metavar="FILE", help="the software chip's key")
    chip_id(c, required=False)
    out(c)

    c = command("package", do.package, "open an ordinary data package as the device that asked for it")
    c.add_argument("package", type=Path)
    c.add_argument("--hello", type=Path, required=True, metavar="FILE", help="what the device sent")
    c.add_argument("--private-d", type=Path, required=True, metavar="FILE", help="scalar of the hello's point")
    rom_key(c)
    c.add_argument("--attestation-key", type=Path, metavar="FILE", help="of suite 1: the chip's, checks the hello")
    c.add_argument("--floor", type=int, default=0, metavar="N", help="the last generation that the chip accepted (default 0)")
    c.add_argument("--unlock", type=Path, metavar="FILE", help="a locked device's unlock statement")
    out(c)

    c = command("canonical", do.canonical, "check that files are deterministic CBOR, by two readers")
    c.add_argument("files", type=Path, nargs="+", metavar="file")
    c.add_argument("--limit", type=int, default=LIMIT, metavar="BYTES", help=f"size limit of a file (default {LIMIT})")

    c = command("vectors", do.vectors, "make every golden value again and compare")
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
