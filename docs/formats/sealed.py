"""What is sealed, §9 and §10 of formats.md: COSE_Encrypt0 with A256GCM."""

from __future__ import annotations

from typing import Any, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cbor_strict import LIMIT, Refused, encode
from values import array, octets

PROTECTED_GCM = bytes.fromhex("a10103")  # {1: 3}, A256GCM
NONCE_SIZE, TAG_SIZE = 12, 16


def gcm_data(external: Sequence[Any]) -> bytes:
    """The associated data: Enc_structure of RFC 9052 §5.3."""
    return encode(["Encrypt0", PROTECTED_GCM, encode(list(external))])


def seal(key: bytes, nonce: bytes, external: Sequence[Any], plain: bytes) -> list[Any]:
    return [PROTECTED_GCM, {5: nonce}, AESGCM(key).encrypt(nonce, plain, gcm_data(external))]


def unseal(key: bytes, sealed: Any, external: Sequence[Any], what: str) -> bytes:
    head, unprotected, ciphertext = array(sealed, 3, what)
    if head != PROTECTED_GCM or type(unprotected) is not dict or set(unprotected) != {5}:
        raise Refused(f"{what}: it is not encrypted as it has to be")
    nonce = octets(unprotected[5], (NONCE_SIZE,), f"{what}: nonce")
    octets(ciphertext, range(TAG_SIZE, LIMIT), f"{what}: ciphertext")
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, gcm_data(external))
    except InvalidTag:
        raise Refused(f"{what}: it does not decrypt: another key, another place, or changed") from None
