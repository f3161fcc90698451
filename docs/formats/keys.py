"""Key derivation and its contexts, §7 of formats.md."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from cbor_strict import encode
from manifest import Manifest
from names import record_id


def kdf1(key: bytes, context: Sequence[Any]) -> bytes:
    """AES-256-CBC, zero IV, no padding, of SHA-256 of the context."""
    e = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return e.update(sha256(encode(list(context))).digest()) + e.finalize()


KDF2_LABEL = b"dk-kdf"


def kdf2(key: bytes, context: Sequence[Any]) -> bytes:
    """SP 800-108 counter mode with AES-256-CMAC: 256 bits in two blocks."""
    out = b""
    for counter in (1, 2):
        c = CMAC(algorithms.AES(key))
        c.update(counter.to_bytes(4, "big") + KDF2_LABEL + b"\0" + encode(list(context)) + (256).to_bytes(4, "big"))
        out += c.finalize()
    return out


def purpose_context(realm: int, kdf: int, master: int, purpose: str) -> list[Any]:
    return ["dk-purpose", 1, realm, kdf, master, purpose, 256]


def device_context(realm: int, kdf: int, master: int, purpose: str, c: Manifest) -> list[Any]:
    return ["dk-kdf", 1, realm, kdf, master, purpose, 256, *c.identity, c.generation, record_id(c.chip_id)]


def transfer_context(suite: int, use: str, transcript: bytes) -> list[Any]:
    return ["dk-transfer", 1, suite, use, transcript]


def transport_context(realm: int, recipient: bytes, point: bytes, label: str) -> list[Any]:
    return ["dk-transport", 1, realm, recipient, point, label]


def transport_secret_context(realm: int, recipient: bytes, point: bytes, label: str) -> list[Any]:
    return ["dk-transport-secret", 1, realm, recipient, point, label]


def chip_context(realm: int, use: str, claims_hash: bytes) -> list[Any]:
    return ["dk-chip", 1, realm, use, claims_hash]
