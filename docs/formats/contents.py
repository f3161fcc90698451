"""Wrapped keys and secrets, every one checked against what vouches for it, §6 of formats.md."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from cbor_strict import Refused
from manifest import Entry, Manifest
from points import public_point, scalar_key
from values import array, octets, same


def unwrap(kek: bytes, e: Entry, blob: Any) -> bytes:
    octets(blob, (40,) if e.form == "key" else (80,), f"wrapped key {e.name}")
    try:
        return aes_key_unwrap(kek, blob)
    except InvalidUnwrap:
        raise Refused(f"wrapped key {e.name}: it does not unwrap: another key, or changed") from None


SECRET_LIMIT = 4096
# All of a PrivateKeyInfo but the scalar's 32 bytes, and the zeros behind it.
PRIVATE_HEAD = bytes.fromhex("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420")
PRIVATE_TAIL = bytes(5)


def private_key(value: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Read a private key as it is wrapped: 72 bytes of one form."""
    if len(value) != 72 or not value.startswith(PRIVATE_HEAD) or not value.endswith(PRIVATE_TAIL):
        raise Refused(f"{what}: it is not a private key of P-256 in the one form")
    return scalar_key(value[len(PRIVATE_HEAD) : -len(PRIVATE_TAIL)], what)


def private_info(scalar: bytes) -> bytes:
    """A private key as it is wrapped."""
    return PRIVATE_HEAD + scalar + PRIVATE_TAIL


def commitment(random: bytes, secret: bytes) -> bytes:
    return sha256(b"dk-secret" + random + secret).digest()


def check_value(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def open_contents(m: Manifest, kek: bytes, wrapped: Any, secrets: Any) -> dict[str, bytes]:
    """Unwrap every key and check all values, one to one, against the manifest."""
    values: dict[str, bytes] = {}
    keys = m.of_form("key", "pair")
    for e, blob in zip(keys, array(wrapped, len(keys), "wrapped keys")):
        value = unwrap(kek, e, blob)
        if e.form == "pair":
            vouch = public_point(private_key(value, f"key pair {e.name}"))
        else:
            vouch = check_value(value, m.check_message(e))
        if not same(vouch, e.vouch):
            raise Refused(f"key {e.name}: it is not the one that the manifest vouches for")
        values[e.name] = value
    hidden = m.of_form("secret")
    for e, pair in zip(hidden, array(secrets, len(hidden), "secrets")):
        random, secret = array(pair, 2, f"secret {e.name}")
        octets(random, (32,), f"secret {e.name}: random")
        octets(secret, range(1, SECRET_LIMIT + 1), f"secret {e.name}")
        if not same(commitment(random, secret), e.vouch):
            raise Refused(f"secret {e.name}: it is not the one that the manifest vouches for")
        values[e.name] = secret
    values.update({e.name: e.vouch for e in m.of_form("clear")})
    return {e.name: values[e.name] for e in m.entries}
