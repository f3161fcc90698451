"""Keys and secrets that travel to a transport key, §17 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from cbor_strict import Refused, decode, encode
from contents import private_key
from keys import kdf1, transport_context, transport_secret_context
from points import point_key, public_point
from sealed import seal, unseal
from values import array, octets, realm_of, version

LABEL_LIMIT, BLOB_LIMIT, SECRET_LIMIT, SECRET_BLOB_LIMIT = 128, 1024, 4096, 4608


def kek(agreed: bytes, realm: int, recipient: bytes, point: bytes, label: str) -> bytes:
    return kdf1(agreed, transport_context(realm, recipient, point, label))


def wrap_to(recipient: bytes, ephemeral: ec.EllipticCurvePrivateKey, realm: int, label: str, key: bytes) -> bytes:
    """Wrap a key, 32 bytes or a PrivateKeyInfo of 72, to a recipient's point."""
    agreed, e = ephemeral.exchange(ec.ECDH(), point_key(recipient, "recipient")), public_point(ephemeral)
    wrapped = aes_key_wrap(kek(agreed, realm, recipient, e, label), key)
    return encode([1, realm, sha256(recipient).digest(), e, label, wrapped])


def open_blob(data: bytes, own: ec.EllipticCurvePrivateKey, realm: int, label: str) -> bytes:
    """Open what was sent to a transport key under a label; a pair must be in the one form."""
    what = "blob"
    v, its_realm, recipient, e, its_label, wrapped = array(decode(data, what, BLOB_LIMIT), 6, what)
    version(v, what)
    if type(its_label) is not str or not 1 <= len(its_label.encode()) <= LABEL_LIMIT:
        raise Refused(f"{what}: the label is no text of 1 to {LABEL_LIMIT} bytes")
    octets(e, (65,), f"{what}: point")
    sender = point_key(e, f"{what}: point")
    octets(wrapped, (40, 80), f"{what}: wrapped key")
    public = public_point(own)
    if octets(recipient, (32,), f"{what}: recipient") != sha256(public).digest():
        raise Refused(f"{what}: it is for another transport key")
    if realm_of(its_realm, what) != realm or its_label != label:
        raise Refused(f"{what}: it was sent in another realm, or as something else")
    try:
        value = aes_key_unwrap(kek(own.exchange(ec.ECDH(), sender), realm, public, e, label), wrapped)
    except InvalidUnwrap:
        raise Refused(f"{what}: it does not unwrap: it was changed") from None
    if len(value) != 32:
        private_key(value, what)
    return value


def seal_to(recipient: bytes, ephemeral: ec.EllipticCurvePrivateKey, realm: int, label: str, nonce: bytes, secret: bytes) -> bytes:
    """Encrypt a secret that is no key to a recipient's point."""
    agreed, e = ephemeral.exchange(ec.ECDH(), point_key(recipient, "recipient")), public_point(ephemeral)
    about = transport_secret_context(realm, recipient, e, label)
    return encode([2, realm, sha256(recipient).digest(), e, label, seal(kdf1(agreed, about), nonce, about, secret)])


def open_secret(data: bytes, own: ec.EllipticCurvePrivateKey, realm: int, label: str) -> bytes:
    """Open a secret that was sent to a transport key under a label."""
    what = "secret that was sent"
    v, its_realm, recipient, e, its_label, sealed = array(decode(data, what, SECRET_BLOB_LIMIT), 6, what)
    if v != 2 or type(v) is not int:
        raise Refused(f"{what}: version {v} is not known")
    public = public_point(own)
    if octets(recipient, (32,), f"{what}: recipient") != sha256(public).digest():
        raise Refused(f"{what}: it is for another transport key")
    if realm_of(its_realm, what) != realm or its_label != label:
        raise Refused(f"{what}: it was sent in another realm, or as something else")
    sender = point_key(octets(e, (65,), f"{what}: point"), f"{what}: point")
    about = transport_secret_context(realm, public, e, label)
    secret = unseal(kdf1(own.exchange(ec.ECDH(), sender), about), sealed, about, what)
    if not 1 <= len(secret) <= SECRET_LIMIT:
        raise Refused(f"{what}: it has {len(secret)} bytes, 1 to {SECRET_LIMIT} are allowed")
    return secret
