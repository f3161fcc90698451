"""The backup data package, §10 of formats.md."""

from __future__ import annotations

from typing import Any

from cbor_strict import BACKUP_CODE, Refused, decode
from certificate import Certificate
from contents import open_contents
from keys import chip_context, kdf1
from manifest import Manifest, bound_manifest
from sealed import unseal
from values import array, version


def backup_data(c: Certificate) -> list[Any]:
    return ["dk-backup", 1, BACKUP_CODE, c.claims_hash]


def read_backup(data: bytes, c: Certificate) -> tuple[Manifest, Any]:
    """Check what of a backup needs no key; also give what is sealed."""
    if not data.startswith(BACKUP_CODE):
        raise Refused("backup: it does not begin with the backup code")
    v, manifest, sealed = array(decode(data, "backup").value, 3, "backup")
    version(v, "backup")
    return bound_manifest(manifest, c), sealed


def open_backup(data: bytes, c: Certificate, chip_key: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """Open a backup with the key of the chip that made it."""
    m, sealed = read_backup(data, c)
    seal_key = kdf1(chip_key, chip_context(c.realm, "seal", c.claims_hash))
    wrap_key = kdf1(chip_key, chip_context(c.realm, "wrap", c.claims_hash))
    plain = unseal(seal_key, sealed, backup_data(c), "backup")
    wrapped, secrets = array(decode(plain, "backup: contents"), 2, "backup: contents")
    return m, open_contents(m, wrap_key, wrapped, secrets)
