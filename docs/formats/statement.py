"""Statements, §4 of formats.md."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cbor_strict import LIMIT, Refused, decode, encode
from points import key_hash, point_key
from values import array, octets

TYPE = "application/vnd.devicekeys."


def protected(signer: bytes, kind: str) -> bytes:
    return encode({1: -7, 4: key_hash(signer)[:8], 16: TYPE + kind})


def open_statement(data: bytes, kind: str, signer: bytes, what: str, limit: int = LIMIT) -> bytes:
    """Check a statement of a type against a signer's point and give its payload."""
    # decode has seen to it that the tag is 18: no other is let through before an array.
    tag = decode(data, what, limit)
    if getattr(tag, "tag", None) != 18:
        raise Refused(f"{what}: it is not a statement (COSE_Sign1)")
    head, unprotected, payload, signature = array(tag.value, 4, what)
    if type(head) is not bytes or type(payload) is not bytes or unprotected != {}:
        raise Refused(f"{what}: it is not a statement of the one form")
    octets(signature, (64,), f"{what}: signature")
    fields = decode(head, f"{what}: protected header")
    if type(fields) is not dict or fields.get(16) != TYPE + kind:
        raise Refused(f"{what}: its type is not {TYPE + kind}")
    if fields.get(4) != key_hash(signer)[:8]:
        raise Refused(f"{what}: it is signed by another key")
    if head != protected(signer, kind):
        raise Refused(f"{what}: its protected header has something else")
    signed = encode(["Signature1", head, b"", payload])
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        point_key(signer, f"{what}: signer").verify(der, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(f"{what}: the signature does not verify") from None
    return payload
