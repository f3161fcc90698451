"""Files that the program reads and makes, each with its limit."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from cbor_strict import LIMIT, Refused
from points import SPKI_HEAD, point_key

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
    point = data[len(SPKI_HEAD) :] if data.startswith(SPKI_HEAD) else data
    point_key(point, f"key in {str(path)!r}")
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
