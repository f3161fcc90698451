"""The golden values of §14 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import channel as ch
from golden import IDENTITY_NAME, ISSUED_AT, Golden
from names import IMEI

SESSION, CHANNEL_TIME = bytes(range(0xF0, 0x100)), ISSUED_AT


def channel(g: Golden) -> None:
    key = g.given("device_key")
    greeting = ch.greeting(CHANNEL_TIME, SESSION)
    g.compare("noise.greeting", greeting)
    noise(g, key, greeting)
    inside_tls(g, key, greeting)
    g.compare("certificate.hello", channel_hello(ch.TLS_CERTIFICATE, ("tls", 0, 0)))
    g.compare("certificate.service_answers", ch.handshake_frame(ch.HANDSHAKE, greeting))
    g.compare("service_is_busy_for_15_seconds", ch.handshake_frame(ch.BUSY, b"\x0f"))


def channel_hello(suite: int, key_id: tuple[str, int, int]) -> bytes:
    return ch.hello(suite, 1, key_id, (IMEI, IDENTITY_NAME), 1)


def noise(g: Golden, key: bytes, greeting: bytes) -> None:
    hello = channel_hello(ch.NOISE, ("channel", 1, 1))
    g.compare("noise.hello", hello)
    d, s = (X25519PrivateKey.from_private_bytes(g.given(f"noise.private_{side}")) for side in ("device", "service"))
    device, service = ch.x25519_point(d), ch.x25519_point(s)
    g.compare("noise.public_device", device)
    g.compare("noise.public_service", service)
    message = ch.psk_message(hello, device, service)
    g.compare("noise.psk_message", message)
    psk = ch.mac(key, message)
    g.compare("noise.psk", psk)

    n = ch.Noise(hello)
    n.ephemeral(device)
    first = ch.handshake_frame(ch.HELLO, hello) + ch.handshake_frame(ch.HANDSHAKE, device + n.payload(b""))
    g.compare("noise.device_sends_first", first)
    n.ephemeral(service)
    n.agree(d, service)
    n.preshare(psk)
    g.compare("noise.service_answers", ch.handshake_frame(ch.HANDSHAKE, service + n.payload(greeting)))
    g.compare("noise.binding", n.h)

    out, back = n.split()
    g.compare("noise.device_confirms", out.record(ch.CONFIRM))
    g.compare("noise.device_sends_ask", out.record(ch.LAST, b"ask"))
    answer = back.record(ch.PART, b"\7" * ch.CHUNK) + back.record(ch.LAST, b"\7")
    g.compare("noise.service_sends_16385_times_07", sha256(answer).digest())
    g.compare("noise.device_ends", out.record(ch.END))
    out.count = 2
    out.rekey()
    g.compare("noise.device_sends_ask_after_a_rekey_instead", out.record(ch.LAST, b"ask"))


def inside_tls(g: Golden, key: bytes, greeting: bytes) -> None:
    hello, exporter = channel_hello(ch.TLS_KEY, ("channel", 1, 1)), g.given("tls.exporter")
    g.compare("tls.hello", hello)
    proofs = {side: ch.proof_message(side, hello, exporter) for side in ("device", "service")}
    for side, message in proofs.items():
        g.compare(f"tls.{side}_proof_message", message)
    device, service = ch.mac(key, proofs["device"]), ch.mac(key, proofs["service"])
    g.compare("tls.device_sends", ch.handshake_frame(ch.HELLO, hello) + ch.handshake_frame(ch.HANDSHAKE, device))
    g.compare("tls.service_answers", ch.handshake_frame(ch.HANDSHAKE, service + greeting))
