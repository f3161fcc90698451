"""Messages to a device, §16 of formats.md, with HPKE (RFC 9180) written out.

Of HPKE only the base mode with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM,
and of that the one encryption that a message has.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cbor_strict import Refused, decode, encode
from points import point_key, public_point
from statement import open_statement
from values import array, number, octets, same, text, version

MESSAGE_LIMIT = 65_536
BODY_LIMIT = 64_512
STATEMENT_TYPE = "message+cbor"
CONTENT_TYPE = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}"

# ---- HPKE.

KEM, SUITE = b"KEM\x00\x10", b"HPKE\x00\x10\x00\x01\x00\x02"


def extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """Give up to 32 bytes, for which HKDF takes one step."""
    return hmac.digest(key, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:size]


def encapsulated(agreed: bytes, enc: bytes, recipient: bytes) -> bytes:
    return expand(KEM, extract(KEM, b"", b"eae_prk", agreed), b"shared_secret", enc + recipient, 32)


def key_and_nonce(shared: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    schedule = b"\x00" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    secret = extract(SUITE, shared, b"secret", b"")
    return AESGCM(expand(SUITE, secret, b"key", schedule, 32)), expand(SUITE, secret, b"base_nonce", schedule, 12)


# ---- Messages.


def info(realm: int, certificate: bytes) -> bytes:
    return encode(["dk-message", 1, realm, sha256(certificate).digest()])


def associated(key_id: bytes, enc: bytes) -> bytes:
    return encode([1, 1, key_id, enc])


def encode_content(realm: int, certificate: bytes, message_id: bytes, content_type: str, body: bytes) -> bytes:
    return encode([1, realm, sha256(certificate).digest(), message_id, content_type, body])


def encrypt(plain: bytes, ephemeral: ec.EllipticCurvePrivateKey, recipient: bytes, realm: int, certificate: bytes) -> bytes:
    enc, key_id = public_point(ephemeral), sha256(recipient).digest()
    agreed = ephemeral.exchange(ec.ECDH(), point_key(recipient, "recipient"))
    key, nonce = key_and_nonce(encapsulated(agreed, enc, recipient), info(realm, certificate))
    return encode([1, 1, key_id, enc, key.encrypt(nonce, plain, associated(key_id, enc))])


@dataclass(frozen=True)
class Opened:
    message_id: bytes
    content_type: str
    body: bytes
    signed: bool


def open_message(data: bytes, private: ec.EllipticCurvePrivateKey, realm: int, certificate: bytes, sender: bytes | None) -> tuple[bytes, Opened]:
    """Give plaintext and content. Without a sender only an anonymous message is taken, with one only his."""
    what = "message"
    v, suite, key_id, enc, sealed = array(decode(data, what, MESSAGE_LIMIT), 5, what)
    version(v, what)
    number(suite, 1, 1, f"{what}: suite")
    own = public_point(private)
    if not same(octets(key_id, (32,), f"{what}: key id"), sha256(own).digest()):
        raise Refused(f"{what}: it is to another key")
    point = point_key(octets(enc, (65,), f"{what}: enc"), f"{what}: enc")
    key, nonce = key_and_nonce(encapsulated(private.exchange(ec.ECDH(), point), enc, own), info(realm, certificate))
    try:
        plain = key.decrypt(nonce, octets(sealed, range(16, MESSAGE_LIMIT), f"{what}: ciphertext"), associated(key_id, enc))
    except InvalidTag:
        raise Refused(f"{what}: it does not open: it was changed, or meant for another certificate") from None
    v, signed, inner = array(decode(plain, what, MESSAGE_LIMIT), 3, what)
    version(v, what)
    if number(signed, 0, 1, f"{what}: signed") != (sender is not None):
        raise Refused(f"{what}: it is {'' if signed else 'not '}signed, against what was expected")
    content = octets(inner, range(1, MESSAGE_LIMIT), what)
    if sender is not None:
        content = open_statement(content, STATEMENT_TYPE, sender, what, MESSAGE_LIMIT)
    return plain, read_content(content, realm, certificate, sender is not None)


def read_content(data: bytes, realm: int, certificate: bytes, signed: bool) -> Opened:
    what = "message: content"
    v, r, name, message_id, content_type, body = array(decode(data, what, MESSAGE_LIMIT), 6, what)
    version(v, what)
    if r != realm or not same(octets(name, (32,), what), sha256(certificate).digest()):
        raise Refused(f"{what}: it was written to another certificate")
    if not any(octets(message_id, (16,), f"{what}: message id")):
        raise Refused(f"{what}: a message id of zeros")
    return Opened(message_id, text(content_type, CONTENT_TYPE, f"{what}: type"), octets(body, range(BODY_LIMIT + 1), f"{what}: body"), signed)
