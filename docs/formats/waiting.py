"""Keys that wait in the pool or in a device's row, §17 of formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from cbor_strict import Refused, decode, encode
from contents import SECRET_LIMIT, private_key
from manifest import ECDH, ES256, GCM, HMAC256
from points import point_key, public_point
from sealed import unseal
from values import array, octets, version

X509_LIMIT = 2048
SEALED_LIMIT = SECRET_LIMIT + 256


def pool_data(realm: int, batch: int, urn: str, entry: str) -> list[Any]:
    """What a secret of the pool is bound to, §13."""
    return ["dk-pool", 1, realm, batch, urn, entry]


@dataclass(frozen=True)
class WaitingKey:
    algorithm: int
    wrapped: bytes
    point: bytes  # empty for a symmetric key
    x509: bytes  # may be empty

    def encode(self) -> bytes:
        return encode([1, self.algorithm, self.wrapped, self.point, self.x509])


def read_waiting(data: bytes) -> WaitingKey:
    what = "waiting key"
    v, algorithm, wrapped, point, x509 = array(decode(data, what, SECRET_LIMIT), 5, what)
    version(v, what)
    if type(algorithm) is not int or algorithm not in (HMAC256, GCM, ES256, ECDH):
        raise Refused(f"{what}: the algorithm is no key's")
    pair = algorithm in (ES256, ECDH)
    w = WaitingKey(
        algorithm,
        octets(wrapped, (80,) if pair else (40,), f"{what}: wrapped"),
        octets(point, (65,) if pair else (0,), f"{what}: point"),
        octets(x509, range(X509_LIMIT + 1) if pair else (0,), f"{what}: certificate"),
    )
    if pair:
        point_key(w.point, f"{what}: point")
    return w


def open_sealed(data: bytes, seal_key: bytes, external: list[Any]) -> tuple[bytes, WaitingKey]:
    """Open what the pool keeps; give the random bytes too."""
    what = "sealed waiting key"
    plain = unseal(seal_key, decode(data, what, SEALED_LIMIT), external, what)
    random, value = array(decode(plain, what), 2, what)
    if type(value) is not bytes:
        raise Refused(f"{what}: the value is no byte string")
    return octets(random, (32,), f"{what}: random"), read_waiting(value)


def unwrap_waiting(w: WaitingKey, wrap_key: bytes) -> bytes:
    """Unwrap the key; a pair must be that of its point."""
    try:
        value = aes_key_unwrap(wrap_key, w.wrapped)
    except InvalidUnwrap:
        raise Refused("waiting key: it does not unwrap: another key, or changed") from None
    if w.point and public_point(private_key(value, "waiting key")) != w.point:
        raise Refused("waiting key: the pair is not that of its point")
    return value
