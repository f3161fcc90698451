"""The golden values of keys by KDF 2, that wait and that travel: §7 and §17 of formats.md."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from cbor_strict import Refused, decode, encode
from contents import private_info
from golden import IDENTITY_NAME, IDENTITY_URN, Golden
from keys import device_context, kdf1, kdf2, purpose_context, transport_context, transport_secret_context
from manifest import ES256, GCM, Manifest
from names import IMEI
from points import public_point, scalar_key
from sealed import seal
from transport import kek, open_blob, open_secret, seal_to, wrap_to
from waiting import WaitingKey, open_sealed, pool_data, read_waiting, unwrap_waiting


def by_kdf2(g: Golden, m: Manifest) -> None:
    """The same device's key from the same master key, as version 2."""
    context = purpose_context(1, 2, 2, "channel")
    g.compare("kdf2_purpose_context", encode(context))
    key = kdf2(g.bytes("master_key"), context)
    g.compare("kdf2_purpose_key", key)
    context = device_context(1, 2, 2, "channel", Manifest(1, (IMEI, IDENTITY_NAME), m.chip_id, 1, ()))
    g.compare("kdf2_device_key_context", encode(context))
    g.compare("kdf2_device_key", kdf2(key, context))


def waiting(g: Golden) -> bytes:
    """A symmetric key and a pair that wait; gives the scalar of the pair."""
    wrap_key, pair_wrap, seal_key = (g.given(f"pool_{name}_key") for name in ("wrap", "pair_wrap", "seal"))
    symmetric = unwrap_waiting(read_waiting(g.bytes("waiting_key")), wrap_key)
    g.compare("waiting_key", WaitingKey(GCM, aes_key_wrap(wrap_key, symmetric), b"", b"").encode())
    external = pool_data(1, 1, IDENTITY_URN, "tls")
    random, opened = open_sealed(g.bytes("waiting_pair_sealed"), seal_key, external)
    scalar = unwrap_waiting(opened, pair_wrap)[35:67]
    point = public_point(scalar_key(scalar, "waiting pair"))
    pair = WaitingKey(ES256, aes_key_wrap(pair_wrap, private_info(scalar)), point, opened.x509).encode()
    g.compare("waiting_pair", pair)
    _, nonce, _ = decode(g.bytes("waiting_pair_sealed"), "sealed waiting pair")
    g.compare("waiting_pair_sealed", encode(seal(seal_key, nonce[5], external, encode([random, pair]))))
    return scalar


def travelling(g: Golden, scalar: bytes) -> None:
    own, ephemeral = (scalar_key(g.given(f"transport_{name}"), name) for name in ("private", "ephemeral"))
    recipient, e = public_point(own), public_point(ephemeral)
    label, pair_label = f"device {IDENTITY_URN} drm", f"device {IDENTITY_URN} tls"
    g.compare("transport_label", label.encode())
    g.compare("transport_kek_context", encode(transport_context(1, recipient, e, label)))
    g.compare("transport_kek", kek(own.exchange(ec.ECDH(), ephemeral.public_key()), 1, recipient, e, label))
    symmetric = open_blob(g.bytes("transport_blob"), own, 1, label)
    if symmetric != unwrap_waiting(read_waiting(g.bytes("waiting_key")), g.bytes("pool_wrap_key")):
        raise Refused(f"{g.name}: what was sent is not the key that waits")
    g.compare("transport_blob", wrap_to(recipient, ephemeral, 1, label, symmetric))
    g.compare("transport_pair_label", pair_label.encode())
    if open_blob(g.bytes("transport_pair_blob"), own, 1, pair_label) != private_info(scalar):
        raise Refused(f"{g.name}: the pair that was sent is not the one that waits")
    g.compare("transport_pair_blob", wrap_to(recipient, ephemeral, 1, pair_label, private_info(scalar)))

    label = f"secret {IDENTITY_URN} sim-lock"
    about = transport_secret_context(1, recipient, e, label)
    g.compare("transport_secret_context", encode(about))
    g.compare("transport_secret_key", kdf1(own.exchange(ec.ECDH(), ephemeral.public_key()), about))
    [[_, code]] = decode(g.bytes("secrets_plaintext"), "secrets")
    if open_secret(g.bytes("transport_secret"), own, 1, label) != code:
        raise Refused(f"{g.name}: the secret that was sent is not the SIM-lock code")
    _, nonce, _ = decode(g.bytes("transport_secret"), "secret that was sent")[-1]
    g.compare("transport_secret", seal_to(recipient, ephemeral, 1, label, nonce[5], code))
