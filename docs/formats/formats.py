"""The formats of Devicekeys, read and written anew from docs/formats.md.

The parts follow that page's sections. Every reader takes bytes, has a size limit, and
gives values only after all of its checks; what it raises otherwise is Refused.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Sequence

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cbor_strict import BACKUP_CODE, LIMIT, PACKAGE_CODE, Refused, decode, encode

# ---- Reading values, §1. bool is a subclass of int in Python and must not pass for one.

P256 = ec.SECP256R1()


def array(value: Any, size: int, what: str) -> list[Any]:
    if type(value) is not list or len(value) != size:
        raise Refused(f"{what}: an array of {size} is expected")
    return value


def items(value: Any, least: int, most: int, what: str) -> list[Any]:
    if type(value) is not list or not least <= len(value) <= most:
        raise Refused(f"{what}: a list of {least} to {most} is expected")
    return value


def number(value: Any, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise Refused(f"{what}: a number from {least} to {most} is expected")
    return value


def octets(value: Any, sizes: Sequence[int], what: str) -> bytes:
    """A byte string whose size is in sizes, which may be a range."""
    if type(value) is not bytes or len(value) not in sizes:
        raise Refused(f"{what}: a byte string of another size is expected")
    return value


def text(value: Any, pattern: str, what: str) -> str:
    if type(value) is not str or not re.fullmatch(pattern, value, re.ASCII):
        raise Refused(f"{what}: the text is not of its form")
    return value


def version(value: Any, what: str) -> None:
    if type(value) is not int or value != 1:
        raise Refused(f"{what}: it is not of version 1, the only one known here")


def realm_of(value: Any, what: str) -> int:
    return number(value, 1, 2, f"{what}: realm")


def generation_of(value: Any, what: str) -> int:
    return number(value, 1, 2**32 - 1, f"{what}: generation")


def point_key(point: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """Read a P-256 point, §1: 65 bytes, uncompressed, on the curve."""
    if len(point) != 65 or point[0] != 4:
        raise Refused(f"{what}: it is not an uncompressed P-256 point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(P256, point)
    except ValueError:
        raise Refused(f"{what}: the point is not on the curve") from None


def same(a: bytes, b: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a, b)


# ---- Names, §3.

IMEI, EUI48, EUI64, SERIAL = 1, 2, 3, 4
CHIP_ID_SIZES = (16, 24, 32)


def eui(name: str, digits: int, what: str) -> None:
    text(name, f"[0-9a-f]{{{digits}}}", what)
    if int(name[:2], 16) & 1:
        raise Refused(f"{what}: a group address identifies no device")
    if not name.strip("0"):
        raise Refused(f"{what}: all digits are zero")


def urn(kind: int, name: str) -> str:
    """Give the URN of an identity's canonical text."""
    if kind == IMEI:
        text(name, r"[0-9]{14}", "IMEI")
        return f"urn:gsma:imei:{name[:8]}-{name[8:]}-0"
    if kind == EUI48:
        eui(name, 12, "EUI-48")
        return f"urn:dev:mac:{name[:6]}fffe{name[6:]}"
    if kind == EUI64:
        eui(name, 16, "EUI-64")
        if name[6:10] == "fffe":
            raise Refused("EUI-64: fffe in the middle is the form of an EUI-48")
        return f"urn:dev:mac:{name}"
    if kind == SERIAL:
        text(name, r"[1-9][0-9]{0,9}-[A-Z0-9.]{1,32}", "serial number")
        return f"urn:dev:os:{name}"
    raise Refused(f"identity: type {kind} is not known")


def identity_of(name: str) -> tuple[int, str]:
    """Give type and canonical text of the identity with a URN."""
    forms = (
        (IMEI, r"urn:gsma:imei:([0-9]{8})-([0-9]{6})-0"),
        (EUI48, r"urn:dev:mac:([0-9a-f]{6})fffe([0-9a-f]{6})"),
        (EUI64, r"urn:dev:mac:([0-9a-f]{16})"),
        (SERIAL, r"urn:dev:os:(.+)"),
    )
    for kind, form in forms:
        match = re.fullmatch(form, name, re.ASCII)
        if match:
            found = "".join(match.groups())
            urn(kind, found)
            return kind, found
    raise Refused("identity: the URN is of no known form")


def chip_id_of(value: Any, what: str) -> bytes:
    chip_id = octets(value, CHIP_ID_SIZES, f"{what}: chip ID")
    if not any(chip_id):
        raise Refused(f"{what}: the chip ID is all zero")
    return chip_id


def record_id(chip_id: bytes) -> bytes:
    return sha256(b"dk-record" + chip_id).digest()


SPKI_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def key_hash(point: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo; its first 8 bytes are the key id."""
    return sha256(SPKI_HEAD + point).digest()


# ---- Statements, §4.

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


# ---- Identity certificate, §5.

CERTIFICATE_LIMIT = 512


@dataclass(frozen=True)
class Certificate:
    payload: bytes  # the claims, encoded
    identity: tuple[int, str]
    issued_at: int
    chip_id: bytes
    realm: int
    generation: int
    manifest: bytes  # its SHA-256

    @property
    def urn(self) -> str:
        return urn(*self.identity)

    @property
    def claims_hash(self) -> bytes:
        return sha256(self.payload).digest()


def encode_claims(name: str, issued_at: int, chip_id: bytes, realm: int, generation: int, manifest: bytes) -> bytes:
    return encode(
        {
            2: name,
            6: issued_at,
            256: b"\x01" + chip_id,
            -65537: realm,
            -65538: generation.to_bytes(4, "big"),
            -65539: manifest,
        }
    )


def open_certificate(data: bytes, rom_key: bytes) -> Certificate:
    what = "certificate"
    payload = open_statement(data, "identity+cwt", rom_key, what, CERTIFICATE_LIMIT)
    claims = decode(payload, f"{what}: claims")
    if type(claims) is not dict or set(claims) != {2, 6, 256, -65537, -65538, -65539}:
        raise Refused(f"{what}: its claims are not exactly the six")
    if type(claims[2]) is not str:
        raise Refused(f"{what}: the subject is no text")
    ueid = octets(claims[256], [1 + n for n in CHIP_ID_SIZES], f"{what}: ueid")
    if ueid[0] != 1:
        raise Refused(f"{what}: the ueid is not of type 1")
    return Certificate(
        payload=payload,
        identity=identity_of(claims[2]),
        issued_at=number(claims[6], 2**16, 2**32 - 1, f"{what}: issued at"),
        chip_id=chip_id_of(ueid[1:], what),
        realm=realm_of(claims[-65537], what),
        generation=generation_of(int.from_bytes(octets(claims[-65538], (4,), f"{what}: generation"), "big"), what),
        manifest=octets(claims[-65539], (32,), f"{what}: manifest"),
    )


# ---- Manifest, §6.

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


# ---- Keys, §7.


def kdf1(key: bytes, context: Sequence[Any]) -> bytes:
    """AES-256-CBC, zero IV, no padding, of SHA-256 of the context."""
    e = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return e.update(sha256(encode(list(context))).digest()) + e.finalize()


def purpose_context(realm: int, kdf: int, master: int, purpose: str) -> list[Any]:
    return ["dk-purpose", 1, realm, kdf, master, purpose, 256]


def device_context(realm: int, kdf: int, master: int, purpose: str, c: Manifest) -> list[Any]:
    return ["dk-kdf", 1, realm, kdf, master, purpose, 256, *c.identity, c.generation, record_id(c.chip_id)]


def transfer_context(suite: int, use: str, transcript: bytes) -> list[Any]:
    return ["dk-transfer", 1, suite, use, transcript]


def chip_context(realm: int, use: str, claims_hash: bytes) -> list[Any]:
    return ["dk-chip", 1, realm, use, claims_hash]


# ---- Encryption, §9, §10.

PROTECTED_GCM = bytes.fromhex("a10103")  # {1: 3}, A256GCM
NONCE_SIZE, TAG_SIZE = 12, 16


def gcm_data(external: Sequence[Any]) -> bytes:
    """The associated data: Enc_structure of RFC 9052 §5.3."""
    return encode(["Encrypt0", PROTECTED_GCM, encode(list(external))])


def seal(key: bytes, nonce: bytes, external: Sequence[Any], plain: bytes) -> list[Any]:
    return [PROTECTED_GCM, {5: nonce}, AESGCM(key).encrypt(nonce, plain, gcm_data(external))]


def unseal(key: bytes, sealed: Any, external: Sequence[Any], what: str) -> bytes:
    head, unprotected, ciphertext = array(sealed, 3, what)
    if head != PROTECTED_GCM or type(unprotected) is not dict or set(unprotected) != {5}:
        raise Refused(f"{what}: it is not encrypted as it has to be")
    nonce = octets(unprotected[5], (NONCE_SIZE,), f"{what}: nonce")
    octets(ciphertext, range(TAG_SIZE, LIMIT), f"{what}: ciphertext")
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, gcm_data(external))
    except InvalidTag:
        raise Refused(f"{what}: it does not decrypt: another key, another place, or changed") from None


def unwrap(kek: bytes, e: Entry, blob: Any) -> bytes:
    octets(blob, (40,) if e.form == "key" else (80,), f"wrapped key {e.name}")
    try:
        return aes_key_unwrap(kek, blob)
    except InvalidUnwrap:
        raise Refused(f"wrapped key {e.name}: it does not unwrap: another key, or changed") from None


# ---- Contents: every entry against what vouches for it, §6.

SECRET_LIMIT = 4096


def scalar_key(scalar: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        return ec.derive_private_key(int.from_bytes(scalar, "big"), P256)
    except ValueError:
        raise Refused(f"{what}: it is not a scalar of P-256") from None


# All of a PrivateKeyInfo but the scalar's 32 bytes, and the zeros behind it.
PRIVATE_HEAD = bytes.fromhex("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420")
PRIVATE_TAIL = bytes(5)


def private_key(value: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Read a private key as it is wrapped: 72 bytes of one form."""
    if len(value) != 72 or not value.startswith(PRIVATE_HEAD) or not value.endswith(PRIVATE_TAIL):
        raise Refused(f"{what}: it is not a private key of P-256 in the one form")
    return scalar_key(value[len(PRIVATE_HEAD) : -len(PRIVATE_TAIL)], what)


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def commitment(random: bytes, secret: bytes) -> bytes:
    return sha256(b"dk-secret" + random + secret).digest()


def check_value(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def open_contents(m: Manifest, kek: bytes, wrapped: Any, secrets: Any) -> dict[str, bytes]:
    """Unwrap every key and check all values, one to one, against the manifest."""
    values: dict[str, bytes] = {}
    keys = m.of_form("key", "pair")
    for e, blob in zip(keys, array(wrapped, len(keys), "wrapped keys")):
        value = unwrap(kek, e, blob)
        if e.form == "pair":
            vouch = public_point(private_key(value, f"key pair {e.name}"))
        else:
            vouch = check_value(value, m.check_message(e))
        if not same(vouch, e.vouch):
            raise Refused(f"key {e.name}: it is not the one that the manifest vouches for")
        values[e.name] = value
    hidden = m.of_form("secret")
    for e, pair in zip(hidden, array(secrets, len(hidden), "secrets")):
        random, secret = array(pair, 2, f"secret {e.name}")
        octets(random, (32,), f"secret {e.name}: random")
        octets(secret, range(1, SECRET_LIMIT + 1), f"secret {e.name}")
        if not same(commitment(random, secret), e.vouch):
            raise Refused(f"secret {e.name}: it is not the one that the manifest vouches for")
        values[e.name] = secret
    values.update({e.name: e.vouch for e in m.of_form("clear")})
    return {e.name: values[e.name] for e in m.entries}


# ---- Hello and data package, §8, §9.

HELLO_LIMIT = 1024


@dataclass(frozen=True)
class Hello:
    m1: bytes
    realm: int
    suite: int
    chip_id: bytes
    rom_key_hash: bytes
    point: bytes


def read_hello(m1: bytes) -> Hello:
    what = "hello"
    v, realm, suite, chip_id, rom, point = array(decode(m1, what, HELLO_LIMIT), 6, what)
    version(v, what)
    octets(point, (65,), f"{what}: point")
    point_key(point, f"{what}: point")
    return Hello(
        m1,
        realm_of(realm, what),
        number(suite, 1, 2, f"{what}: suite"),
        chip_id_of(chip_id, what),
        octets(rom, (32,), f"{what}: hash of the ROM key"),
        point,
    )


def transcript(m1: bytes, point: bytes, claims: bytes) -> bytes:
    return sha256(encode([m1, point, claims])).digest()


def admit(c: Certificate, floor: int, unlock: bytes | None, rom_key: bytes) -> None:
    """Check a package's generation, as a chip with this floor does; where it is locked, by its unlock statement."""
    if c.generation <= floor:
        raise Refused(f"certificate: generation {c.generation} is not above the floor, {floor}")
    if unlock is None:
        return
    said = open_statement(unlock, "unlock+cbor", rom_key, "unlock statement")
    if c.generation < 2 or said != encode([1, c.realm, record_id(c.chip_id), c.generation]):
        raise Refused("unlock statement: it is for another chip, realm or generation")


@dataclass(frozen=True)
class Opened:
    certificate: Certificate
    manifest: Manifest
    values: dict[str, bytes]
    transcript: bytes


def open_package(data: bytes, hello: Hello, d: bytes, rom_key: bytes, floor: int = 0, unlock: bytes | None = None) -> Opened:
    """Check an ordinary package, in the order of §9, as the device does that sent the hello."""
    what = "data package"
    if not data.startswith(PACKAGE_CODE):
        raise Refused(f"{what}: it does not begin with the code of an ordinary package")
    own = scalar_key(d, "ephemeral key")
    if public_point(own) != hello.point:
        raise Refused("ephemeral key: it is not that of the hello")
    if hello.rom_key_hash != key_hash(rom_key):
        raise Refused("hello: it names another ROM key")
    v, point, raw, manifest, wrapped, secrets = array(decode(data, what).value, 6, what)
    version(v, what)
    if type(raw) is not bytes:
        raise Refused(f"{what}: the certificate is no byte string")
    c = open_certificate(raw, rom_key)
    if (c.chip_id, c.realm) != (hello.chip_id, hello.realm):
        raise Refused(f"{what}: it is for another chip or realm")
    admit(c, floor, unlock, rom_key)
    m = bound_manifest(manifest, c)
    octets(point, (65,), f"{what}: point")
    agreed = own.exchange(ec.ECDH(), point_key(point, f"{what}: point"))
    t = transcript(hello.m1, point, c.payload)
    plain: list[Any] = []
    if m.of_form("secret"):
        key = kdf1(agreed, transfer_context(hello.suite, "pkg", t))
        plain = decode(unseal(key, secrets, ["dk-package", 1, t], "secrets"), "secrets")
    elif secrets is not None:
        raise Refused(f"{what}: it has secrets that the manifest does not name")
    kek = kdf1(agreed, transfer_context(hello.suite, "kek", t))
    return Opened(c, m, open_contents(m, kek, wrapped, plain), t)


# ---- Backup data package, §10.


def backup_data(c: Certificate) -> list[Any]:
    return ["dk-backup", 1, BACKUP_CODE, c.claims_hash]


def read_backup(data: bytes, c: Certificate) -> tuple[Manifest, Any]:
    """Check what of a backup needs no key; also give what is sealed."""
    if not data.startswith(BACKUP_CODE):
        raise Refused("backup: it does not begin with the backup code")
    v, manifest, sealed = array(decode(data, "backup").value, 3, "backup")
    version(v, "backup")
    return bound_manifest(manifest, c), sealed


def open_backup(data: bytes, c: Certificate, chip_key: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """Open a backup with the key of the chip that made it."""
    m, sealed = read_backup(data, c)
    seal_key = kdf1(chip_key, chip_context(c.realm, "seal", c.claims_hash))
    wrap_key = kdf1(chip_key, chip_context(c.realm, "wrap", c.claims_hash))
    plain = unseal(seal_key, sealed, backup_data(c), "backup")
    wrapped, secrets = array(decode(plain, "backup: contents"), 2, "backup: contents")
    return m, open_contents(m, wrap_key, wrapped, secrets)


# ---- Registry, §11.

REGISTER, SUPERSEDE, SCRAP, ERASE, CERTIFICATES = 1, 2, 3, 4, 5
TYPES = {REGISTER: "register", SUPERSEDE: "supersede", SCRAP: "scrap", ERASE: "erase", CERTIFICATES: "certificates"}
ENTRY_LIMIT = 65_535
STATEMENT_LIMIT = 512


@dataclass(frozen=True)
class RegistryEntry:
    realm: int
    kind: int
    record_id: bytes
    generation: int
    sealed: bytes
    statement: bytes

    @property
    def place(self) -> list[Any]:
        """What the entry says in clear; also the associated data of its record."""
        return [1, self.realm, self.kind, self.record_id, self.generation]

    def encode(self) -> bytes:
        return encode([*self.place, self.sealed, self.statement])

    @property
    def leaf(self) -> bytes:
        return encode([*self.place, sha256(self.sealed).digest()])

    @property
    def leaf_hash(self) -> bytes:
        return sha256(b"\0" + self.leaf).digest()


def read_registry_entry(data: bytes) -> RegistryEntry:
    what = "entry"
    v, realm, kind, record, generation, sealed, statement = array(decode(data, what, ENTRY_LIMIT), 7, what)
    version(v, what)
    e = RegistryEntry(
        realm_of(realm, what),
        number(kind, 1, 5, f"{what}: type"),
        octets(record, (32,), f"{what}: record id"),
        generation_of(generation, what),
        octets(sealed, range(ENTRY_LIMIT), f"{what}: sealed record"),
        octets(statement, range(STATEMENT_LIMIT + 1), f"{what}: statement"),
    )
    if not any(e.record_id):
        raise Refused(f"{what}: the record id is all zero")
    if e.kind in (REGISTER, SUPERSEDE):
        if not e.sealed or e.statement:
            raise Refused(f"{what}: {TYPES[e.kind]} has a sealed record and no statement")
    elif e.kind == CERTIFICATES:
        if e.statement:
            raise Refused(f"{what}: {TYPES[e.kind]} has no statement")
        read_public_certificates(e.sealed)
    elif e.sealed or not e.statement:
        raise Refused(f"{what}: {TYPES[e.kind]} has a statement and no sealed record")
    return e


def read_public_certificates(data: bytes) -> tuple[str, list[bytes]]:
    """What a certificates entry has in the place of a sealed record."""
    what = "certificates"
    v, urn, certificates = array(decode(data, what, ENTRY_LIMIT), 3, what)
    version(v, what)
    if not isinstance(urn, str) or len(urn) > 128 or any(not "!" <= c <= "~" or c == "/" for c in urn):
        raise Refused(f"{what}: the identity is no URN")
    if not isinstance(certificates, list) or not 1 <= len(certificates) <= 8:
        raise Refused(f"{what}: 1 to 8 are expected")
    return urn, [octets(c, range(1, 2049), f"{what}: certificate") for c in certificates]


def record_key(chip_id: bytes, e: RegistryEntry) -> bytes:
    info = encode(["dk-record-seal", 1, e.realm, e.generation])
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(chip_id)


@dataclass(frozen=True)
class Record:
    certificate: bytes
    backup: bytes
    x509: tuple[bytes, ...]

    def encode(self) -> bytes:
        return encode([1, self.certificate, self.backup, list(self.x509)])


def open_entry(e: RegistryEntry, chip_id: bytes) -> Record:
    """Open a registry entry with the ID of the chip that it is about."""
    if e.record_id != record_id(chip_id):
        raise Refused("entry: its record id is not that of this chip")
    if not e.sealed:
        raise Refused(f"entry: of type {TYPES[e.kind]}, it holds no record")
    plain = unseal(record_key(chip_id, e), decode(e.sealed, "sealed record"), e.place, "sealed record")
    v, certificate, backup, x509 = array(decode(plain, "record"), 4, "record")
    version(v, "record")
    octets(certificate, range(1, CERTIFICATE_LIMIT + 1), "record: certificate")
    octets(backup, range(1, LIMIT + 1), "record: backup")
    chain = tuple(octets(x, range(1, LIMIT), "record: X.509 certificate") for x in items(x509, 0, 8, "record: X.509"))
    return Record(certificate, backup, chain)


def check_record(r: Record, e: RegistryEntry, rom_key: bytes) -> Certificate:
    """Check that a record belongs where it stands, and is signed by the maker."""
    c = open_certificate(r.certificate, rom_key)
    if (c.realm, record_id(c.chip_id), c.generation) != (e.realm, e.record_id, e.generation):
        raise Refused("record: its certificate is of another chip, realm or generation than its entry")
    read_backup(r.backup, c)
    return c


def check_withdrawal(e: RegistryEntry, rom_key: bytes) -> None:
    """Check the statement of a scrap or erase entry, without which it means nothing."""
    if not same(open_statement(e.statement, "registry+cbor", rom_key, "entry's statement"), e.leaf):
        raise Refused("entry's statement: it is about another entry")
