"""P-256 points and scalars, §1 and §3 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cbor_strict import Refused

P256 = ec.SECP256R1()


def point_key(point: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """Read a P-256 point, §1: 65 bytes, uncompressed, on the curve."""
    if len(point) != 65 or point[0] != 4:
        raise Refused(f"{what}: it is not an uncompressed P-256 point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(P256, point)
    except ValueError:
        raise Refused(f"{what}: the point is not on the curve") from None


SPKI_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def key_hash(point: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo; its first 8 bytes are the key id."""
    return sha256(SPKI_HEAD + point).digest()


def scalar_key(scalar: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        return ec.derive_private_key(int.from_bytes(scalar, "big"), P256)
    except ValueError:
        raise Refused(f"{what}: it is not a scalar of P-256") from None


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
