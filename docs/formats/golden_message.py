"""The golden values of §16 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import message as msg
from cbor_strict import Refused, decode, encode
from golden import Golden, statement
from points import public_point, scalar_key


def message(g: Golden) -> None:
    recipient, sender, ephemeral = (scalar_key(g.given(f"{who}_private"), who) for who in ("recipient", "sender", "ephemeral"))
    certificate, body, message_id = g.given("certificate"), g.given("body"), g.given("message_id")
    g.inputs.add("content_type")
    point, content_type = public_point(recipient), g.raw("content_type")
    if x509.load_der_x509_certificate(certificate).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) != point:
        raise Refused(f"{g.name}: the certificate is of another key")
    key_id = sha256(point).digest()
    g.compare("key_id", key_id)
    g.compare("sender_public", public_point(sender))
    g.compare("info", msg.info(1, certificate))
    g.compare("aad", msg.associated(key_id, public_point(ephemeral)))
    content = msg.encode_content(1, certificate, message_id, content_type, body)
    g.compare("content", content)
    for i, signer in enumerate((None, public_point(sender))):
        name = f"messages.{i}"
        golden = g.bytes(f"{name}.message")
        plain, opened = msg.open_message(golden, recipient, 1, certificate, signer)
        if opened != msg.Opened(message_id, content_type, body, signer is not None):
            raise Refused(f"{g.name}: {name} says something else")
        inner = content
        if signer is not None:
            inner = statement(signer, msg.STATEMENT_TYPE, content, decode(plain, name)[2])
        g.compare_value(f"{name}.signed", signer is not None)
        g.compare(f"{name}.plaintext", encode([1, int(signer is not None), inner]))
        g.compare(f"{name}.message", msg.encrypt(encode([1, int(signer is not None), inner]), ephemeral, point, 1, certificate))
