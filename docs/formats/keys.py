"""Key derivation and its contexts, §7 of formats.md."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cbor_strict import encode
from manifest import Manifest
from names import record_id


def kdf1(key: bytes, context: Sequence[Any]) -> bytes:
    """AES-256-CBC, zero IV, no padding, of SHA-256 of the context."""
    e = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return e.update(sha256(encode(list(context))).digest()) + e.finalize()


def purpose_context(realm: int, kdf: int, master: int, purpose: str) -> list[Any]:
    return ["dk-purpose", 1, realm, kdf, master, purpose, 256]


def device_context(realm: int, kdf: int, master: int, purpose: str, c: Manifest) -> list[Any]:
    return ["dk-kdf", 1, realm, kdf, master, purpose, 256, *c.identity, c.generation, record_id(c.chip_id)]


def transfer_context(suite: int, use: str, transcript: bytes) -> list[Any]:
    return ["dk-transfer", 1, suite, use, transcript]


def chip_context(realm: int, use: str, claims_hash: bytes) -> list[Any]:
    return ["dk-chip", 1, realm, use, claims_hash]
