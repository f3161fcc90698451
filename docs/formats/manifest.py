"""Manifest and entries, §6 of formats.md."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cbor_strict import Refused, decode, encode
from certificate import Certificate
from names import chip_id_of, urn
from points import point_key
from values import array, generation_of, items, number, octets, realm_of, same, text, version

HMAC256, GCM, ES256, ECDH, NO_KEY = 5, 3, -7, -25, 0
KINDS: dict[int, tuple[str, tuple[int, ...]]] = {
    1: ("communication", (HMAC256, GCM)),
    2: ("key pair", (ES256, ECDH)),
    3: ("DRM", (GCM, HMAC256, NO_KEY)),
    4: ("SIM lock", (NO_KEY,)),
    5: ("opaque", (NO_KEY,)),
}
MANIFEST_LIMIT = 32_768


@dataclass(frozen=True)
class Entry:
    kind: int
    key_id: tuple[str, int, int]  # name, kdf, version
    algorithm: int
    clear: bool
    vouch: bytes

    @property
    def name(self) -> str:
        return self.key_id[0]

    @property
    def form(self) -> str:
        if self.algorithm in (HMAC256, GCM):
            return "key"
        if self.algorithm in (ES256, ECDH):
            return "pair"
        return "clear" if self.clear else "secret"

    def encoded(self) -> list[Any]:
        return [self.kind, list(self.key_id), self.algorithm, self.clear, self.vouch]


@dataclass(frozen=True)
class Manifest:
    realm: int
    identity: tuple[int, str]
    chip_id: bytes
    generation: int
    entries: tuple[Entry, ...]

    def encode(self) -> bytes:
        listed = [e.encoded() for e in self.entries]
        return encode([1, self.realm, *self.identity, self.chip_id, self.generation, listed])

    def of_form(self, *forms: str) -> list[Entry]:
        return [e for e in self.entries if e.form in forms]

    def check_message(self, e: Entry) -> bytes:
        return encode(["dk-check", 1, self.realm, list(e.key_id), self.chip_id, urn(*self.identity), self.generation])


def read_entry(value: Any) -> Entry:
    what = "manifest entry"
    kind, key_id, algorithm, clear, vouch = array(value, 5, what)
    name, kdf, master = array(key_id, 3, f"{what}: key id")
    text(name, r"[a-z0-9-]{1,32}", f"{what}: name")
    number(kdf, 0, 2, f"{what} {name}: kdf")
    number(master, 1 if kdf else 0, 2**32 - 1 if kdf else 0, f"{what} {name}: version")
    number(kind, 1, 5, f"{what} {name}: kind")
    if type(algorithm) is not int or algorithm not in KINDS[kind][1]:
        raise Refused(f"{what} {name}: kind {KINDS[kind][0]} has not this algorithm")
    if type(clear) is not bool or (clear and algorithm != NO_KEY):
        raise Refused(f"{what} {name}: a key is never clear")
    e = Entry(kind, (name, kdf, master), algorithm, clear, vouch)
    if kdf and e.form != "key":
        raise Refused(f"{what} {name}: only a symmetric key is derived")
    sizes = {"key": range(32, 33), "pair": range(65, 66), "secret": range(32, 33), "clear": range(1, 4097)}
    octets(vouch, sizes[e.form], f"{what} {name}: what vouches for it")
    if e.form == "pair":
        point_key(vouch, f"{what} {name}: public key")
    return e


def read_manifest(data: bytes) -> Manifest:
    what = "manifest"
    v, realm, kind, name, chip_id, generation, entries = array(decode(data, what, MANIFEST_LIMIT), 7, what)
    version(v, what)
    number(kind, 1, 4, f"{what}: identity type")
    urn(kind, name)
    listed = tuple(read_entry(e) for e in items(entries, 1, 32, f"{what}: entries"))
    if len({e.name for e in listed}) != len(listed):
        raise Refused(f"{what}: two entries have one name")
    points = [e.vouch for e in listed if e.algorithm in (ES256, ECDH)]
    if len(set(points)) != len(points):
        raise Refused(f"{what}: two entries have one public key")
    return Manifest(realm_of(realm, what), (kind, name), chip_id_of(chip_id, what), generation_of(generation, what), listed)


def bound_manifest(data: bytes, c: Certificate) -> Manifest:
    """Check a manifest against its certificate: the hash, and then every field."""
    if type(data) is not bytes or not same(sha256(data).digest(), c.manifest):
        raise Refused("manifest: it is not the one that the certificate names")
    m = read_manifest(data)
    if (m.realm, m.identity, m.chip_id, m.generation) != (c.realm, c.identity, c.chip_id, c.generation):
        raise Refused("manifest: it says something else than the certificate")
    return m
