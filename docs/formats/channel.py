"""The secure channel, §14 of formats.md: hello, frames, and Noise written out.

Noise is the protocol framework, revision 34, and of it only NNpsk2 with X25519, AES-GCM
and SHA-256. Both sides are played by one who knows both ephemeral private keys.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cbor_strict import encode

NOISE, TLS_KEY, TLS_CERTIFICATE = 1, 2, 3  # suites
HELLO, HANDSHAKE, BUSY = 1, 2, 3  # frames of the handshake
CONFIRM, PART, LAST, END = 0, 1, 2, 3  # records of the open channel
CHUNK = 16_384


def mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


def handshake_frame(kind: int, body: bytes) -> bytes:
    return frame(bytes([kind]) + body)


def hello(suite: int, realm: int, key_id: tuple[str, int, int], identity: tuple[int, str], generation: int) -> bytes:
    return encode(["dk-channel-hello", 1, suite, realm, list(key_id), *identity, generation])


def greeting(time: int, session: bytes) -> bytes:
    return encode([1, time, session])


def psk_message(hello_: bytes, device: bytes, service: bytes) -> bytes:
    return encode(["dk-channel-psk", 1, sha256(hello_).digest(), device, service])


def proof_message(side: str, hello_: bytes, exporter: bytes) -> bytes:
    """What proves the key in suite 2; side is "device" or "service"."""
    return encode([f"dk-channel-{side}", 1, sha256(hello_).digest(), exporter])


def x25519_point(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """Noise §4.3."""
    temporary, out, last = mac(chaining_key, material), [], b""
    for i in range(1, outputs + 1):
        last = mac(temporary, last + bytes([i]))
        out.append(last)
    return out


class Cipher:
    """A CipherState, Noise §5.1, of one direction."""

    def __init__(self, key: bytes):
        self.key, self.count = key, 0

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        nonce = bytes(4) + self.count.to_bytes(8, "big")
        self.count += 1
        return AESGCM(self.key).encrypt(nonce, plain, associated)

    def record(self, kind: int, content: bytes = b"") -> bytes:
        return frame(self.seal(bytes([kind]) + content))

    def rekey(self) -> None:
        """Noise §4.2 and §11.3: the nonce goes on."""
        nonce = bytes(4) + (2**64 - 1).to_bytes(8, "big")
        self.key = AESGCM(self.key).encrypt(nonce, bytes(32), b"")[:32]


class Noise:
    """A SymmetricState, Noise §5.2, with the tokens of NNpsk2."""

    def __init__(self, prologue: bytes):
        name = b"Noise_NNpsk2_25519_AESGCM_SHA256"  # 32 bytes: it stands for its hash
        self.h = self.chaining_key = name
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def mix_key(self, material: bytes) -> None:
        self.chaining_key, key = hkdf(self.chaining_key, material, 2)
        self.cipher = Cipher(key)

    def ephemeral(self, point: bytes) -> None:
        self.mix_hash(point)
        self.mix_key(point)  # §9.2: of a handshake with a pre-shared key

    def agree(self, own: X25519PrivateKey, point: bytes) -> None:
        self.mix_key(own.exchange(X25519PublicKey.from_public_bytes(point)))

    def preshare(self, psk: bytes) -> None:
        self.chaining_key, h, key = hkdf(self.chaining_key, psk, 3)
        self.mix_hash(h)
        self.cipher = Cipher(key)

    def payload(self, plain: bytes) -> bytes:
        sealed = self.cipher.seal(plain, self.h)
        self.mix_hash(sealed)
        return sealed

    def split(self) -> tuple[Cipher, Cipher]:
        """From the device and to it."""
        device, service = hkdf(self.chaining_key, b"", 2)
        return Cipher(device), Cipher(service)
