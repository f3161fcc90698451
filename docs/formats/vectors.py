"""Makes every golden value again from the text of formats.md, and compares.

A value is either given (a key, an ID, or what was drawn at random, which nothing can make
again) or made here and compared. A file that has a value which is neither is refused, so
that no vector goes unchecked. Of a signature only the verification can be repeated; all
around it is made again.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from cbor2 import CBORTag
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import channel as ch
import formats as f
import message as msg
from cbor_strict import BACKUP_CODE, Refused, decode, encode

FILE_LIMIT = 1 << 20
IDENTITY_NAME, IDENTITY_URN = "00440245000001", "urn:gsma:imei:00440245-000001-0"
ISSUED_AT = 1_700_000_000


class Golden:
    """A golden file, and which of its values were accounted for."""

    def __init__(self, path: Path):
        self.name = "/".join(path.parts[-3:])
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise Refused(f"{self.name}: it has more than {FILE_LIMIT} bytes")
        self.values: dict[str, Any] = {}
        try:
            self._flatten("", json.loads(content))
        except ValueError as e:
            raise Refused(f"{self.name}: {e}") from e
        self.inputs: set[str] = set()
        self.made: set[str] = set()

    def _flatten(self, prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                self._flatten(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                self._flatten(f"{prefix}.{i}", inner)
        else:
            self.values[prefix] = value

    def raw(self, path: str) -> Any:
        if path not in self.values:
            raise Refused(f"{self.name}: value {path} is missing")
        return self.values[path]

    def bytes(self, path: str) -> bytes:
        """Look at a value without accounting for it."""
        return bytes.fromhex(self.raw(path))

    def given(self, path: str) -> bytes:
        self.inputs.add(path)
        return self.bytes(path)

    def compare(self, path: str, made: bytes | int) -> None:
        want = self.raw(path)
        if (made.hex() if isinstance(made, bytes) else made) != want:
            raise Refused(f"{self.name}: {path} is {want}, made again it is {made.hex() if isinstance(made, bytes) else made}")
        self.made.add(path)

    def compare_value(self, path: str, made: str | bool) -> None:
        """Compare what the file doesn't spell in hexadecimal."""
        if self.raw(path) != made:
            raise Refused(f"{self.name}: {path} is {self.raw(path)!r}, made again it is {made!r}")
        self.made.add(path)

    def finish(self) -> None:
        left = sorted(set(self.values) - self.inputs - self.made)
        if left:
            raise Refused(f"{self.name}: not accounted for: {', '.join(left)}")
        print(f"{self.name}: {len(self.made)} values made again, {len(self.inputs)} given")


def statement(signer: bytes, kind: str, payload: bytes, golden: bytes) -> bytes:
    """Make a statement around the golden one's signature, once that verifies."""
    f.open_statement(golden, kind, signer, kind)
    return encode(CBORTag(18, [f.protected(signer, kind), {}, payload, golden[-64:]]))


def claims(chip_id: bytes, generation: int, manifest: bytes) -> bytes:
    return f.encode_claims(IDENTITY_URN, ISSUED_AT, chip_id, 1, generation, manifest)


def certificate(rom: bytes, chip_id: bytes, generation: int, golden: bytes) -> bytes:
    manifest = f.open_certificate(golden, rom).manifest  # of a manifest that is in no file
    return statement(rom, "identity+cwt", claims(chip_id, generation, manifest), golden)


# ---- §3 to §5.


def identity(g: Golden) -> None:
    rom, chip_id = g.given("rom_key_point"), g.given("chip_id")
    g.compare("rom_key_hash", f.key_hash(rom))
    g.compare("record_id", f.record_id(chip_id))
    golden = g.bytes("certificate")
    made = certificate(rom, chip_id, 1, golden)
    g.compare("certificate", made)
    payload = f.open_certificate(made, rom).payload
    g.compare("claims", payload)
    g.compare("claims_hash", sha256(payload).digest())
    unlock = encode([1, 1, f.record_id(chip_id), 2])
    g.compare("unlock", statement(rom, "unlock+cbor", unlock, g.bytes("unlock")))
    layout(g, made, rom, chip_id, payload)


def layout(g: Golden, made: bytes, rom: bytes, chip_id: bytes, payload: bytes) -> None:
    head = f.protected(rom, "identity+cwt")
    fields = {
        "certificate": (0, len(made)),
        "protected": (made.index(head), len(head)),
        "payload": (made.index(payload), len(payload)),
        "subject": (made.index(IDENTITY_URN.encode()), len(IDENTITY_URN)),
        "issued_at": (made.index(ISSUED_AT.to_bytes(4, "big")), 4),
        "chip_id": (made.index(chip_id), len(chip_id)),
        "realm": (made.index(encode(-65537)) + 5, 1),
        "generation": (made.index(encode(-65538)) + 6, 4),
        "manifest": (made.index(encode(-65539)) + 7, 32),
        "signature": (len(made) - 64, 64),
    }
    for name, (offset, length) in fields.items():
        g.compare(f"layout.{name}.Offset", offset)
        g.compare(f"layout.{name}.Length", length)
    # What a boot ROM hashes, by the offsets of §5.
    p, n = len(head), len(encode(payload))
    signed = b"\x84\x6aSignature1" + made[2 : 4 + p] + b"\x40" + made[5 + p : 5 + p + n]
    if signed != encode(["Signature1", head, b"", payload]):
        raise Refused(f"{g.name}: a boot ROM would hash something else than what is signed")


# ---- §6 to §10, §12, §13.


def keypackage(g: Golden) -> None:
    m = keys_and_manifest(g)
    t, agreed, hello = transfer(g, m)
    package_parts(g, m, t, agreed, hello)
    backup_parts(g, m)
    messages(g, m, t)


def keys_and_manifest(g: Golden) -> f.Manifest:
    """The master key's descendants, and a manifest with each form of entry."""
    chip_id = f.read_manifest(g.bytes("manifest")).chip_id
    empty = f.Manifest(1, (f.IMEI, IDENTITY_NAME), chip_id, 1, ())
    purpose = f.purpose_context(1, 1, 1, "channel")
    g.compare("purpose_context", encode(purpose))
    purpose_key = f.kdf1(g.given("master_key"), purpose)
    g.compare("purpose_key", purpose_key)
    context = f.device_context(1, 1, 1, "channel", empty)
    g.compare("device_key_context", encode(context))
    channel = f.kdf1(purpose_key, context)
    g.compare("device_key", channel)

    # The licensor's key and the key pair are in no file but wrapped.
    golden = f.read_manifest(g.bytes("manifest"))
    _, pair, drm = wrapped_values(g)
    [[random, code]] = decode(g.bytes("secrets_plaintext"), "secrets")
    entries = [
        f.Entry(1, ("channel", 1, 1), f.HMAC256, False, b""),
        f.Entry(2, ("tls", 0, 0), f.ES256, False, golden.entries[1].vouch),
        f.Entry(3, ("drm", 0, 0), f.GCM, False, b""),
        f.Entry(4, ("sim-lock", 0, 0), f.NO_KEY, False, f.commitment(random, code)),
        f.Entry(5, ("region", 0, 0), f.NO_KEY, True, b"EU"),
    ]
    for i, key in ((0, channel), (2, drm)):
        e = entries[i]
        message = empty.check_message(e)
        entries[i] = f.Entry(e.kind, e.key_id, e.algorithm, e.clear, f.check_value(key, message))
    g.compare("check_message", empty.check_message(entries[0]))
    g.compare("check_value", entries[0].vouch)
    g.compare("sim_lock_commitment", entries[3].vouch)
    m = f.Manifest(1, empty.identity, chip_id, 1, tuple(entries))
    g.compare("manifest", m.encode())
    g.compare("manifest_hash", sha256(m.encode()).digest())
    payload = claims(chip_id, 1, sha256(m.encode()).digest())
    g.compare("claims", payload)
    g.compare("claims_hash", sha256(payload).digest())
    return m


def wrapped_values(g: Golden) -> list[bytes]:
    wrapped, _ = decode(g.bytes("backup_plaintext"), "backup plaintext")
    return [aes_key_unwrap(g.bytes("chip_wrap_key"), w) for w in wrapped]


def transfer(g: Golden, m: f.Manifest) -> tuple[bytes, bytes, f.Hello]:
    d, s = (f.scalar_key(g.given(name), name) for name in ("private_d", "private_s"))
    hello = f.read_hello(g.bytes("hello"))
    g.compare("hello", encode([1, 1, 1, m.chip_id, hello.rom_key_hash, f.public_point(d)]))
    t = f.transcript(hello.m1, f.public_point(s), g.bytes("claims"))
    g.compare("transcript", t)
    agreed = d.exchange(ec.ECDH(), s.public_key())
    g.compare("agreed_secret", agreed)
    return t, agreed, hello


def package_parts(g: Golden, m: f.Manifest, t: bytes, agreed: bytes, hello: f.Hello) -> None:
    context = f.transfer_context(hello.suite, "kek", t)
    g.compare("kek_context", encode(context))
    kek = f.kdf1(agreed, context)
    g.compare("kek", kek)
    key = f.kdf1(agreed, f.transfer_context(hello.suite, "pkg", t))
    g.compare("package_key", key)
    g.compare("device_key_under_kek", aes_key_wrap(kek, g.bytes("device_key")))
    external = ["dk-package", 1, t]
    g.compare("package_gcm_aad", f.gcm_data(external))
    _, nonce, _ = decode(g.bytes("secrets_sealed"), "sealed secrets")
    plain = f.unseal(key, decode(g.bytes("secrets_sealed"), "sealed secrets"), external, "secrets")
    secrets = [list(pair) for pair in decode(plain, "secrets")]
    g.compare("secrets_plaintext", encode(secrets))
    g.compare("secrets_sealed", encode(f.seal(key, nonce[5], external, encode(secrets))))


def backup_parts(g: Golden, m: f.Manifest) -> None:
    chip_key, claims_hash = g.given("chip_key"), g.bytes("claims_hash")
    context = f.chip_context(1, "wrap", claims_hash)
    g.compare("chip_wrap_context", encode(context))
    wrap_key = f.kdf1(chip_key, context)
    g.compare("chip_wrap_key", wrap_key)
    seal_key = f.kdf1(chip_key, f.chip_context(1, "seal", claims_hash))
    g.compare("chip_seal_key", seal_key)
    _, pair, drm = wrapped_values(g)  # the first is derived, and so made again
    wrapped = [aes_key_wrap(wrap_key, k) for k in (g.bytes("device_key"), pair, drm)]
    plain = encode([wrapped, decode(g.bytes("secrets_plaintext"), "secrets")])
    g.compare("backup_plaintext", plain)
    external = ["dk-backup", 1, BACKUP_CODE, claims_hash]
    g.compare("backup_gcm_aad", f.gcm_data(external))
    _, manifest, (_, nonce, _) = decode(g.bytes("backup"), "backup").value
    made = encode([1, m.encode(), f.seal(seal_key, nonce[5], external, plain)])
    g.compare("backup", BACKUP_CODE + made)


def messages(g: Golden, m: f.Manifest, t: bytes) -> None:
    claims_hash, backup_hash = g.bytes("claims_hash"), sha256(g.bytes("backup")).digest()
    challenge = decode(g.bytes("restored_message"), "restored message")[-1]
    g.compare("confirm_message", encode(["dk-confirm", 1, t, backup_hash]))
    g.compare("restored_message", encode(["dk-restored", 1, claims_hash, backup_hash, challenge]))
    g.compare("published_message", encode(["dk-published", 1, claims_hash]))
    g.compare("locked_message", encode(["dk-locked", 1, claims_hash]))
    g.compare("pool_aad", encode(["dk-pool", 1, 1, 1, IDENTITY_URN, "sim-lock"]))
    try:
        f.read_manifest(g.given("manifest_refused"))
    except f.Refused:
        pass
    else:
        raise Refused(f"{g.name}: a manifest with one point twice is read")
    payload = encode([1, 1, "meter", sha256(g.given("key_file")).digest()])
    g.compare("key_file_statement", statement(g.given("key_file_sender"), "key-file+cbor", payload, g.bytes("key_file_statement")))


# ---- §11.


def registry(g: Golden) -> None:
    chip_id, rom, nonce = g.given("chip_id"), g.given("rom_key"), g.given("nonce")
    g.compare("record_id", f.record_id(chip_id))
    backup, x509 = g.given("record.backup"), g.given("record.x509.0")
    signed = certificate(rom, chip_id, 2, g.bytes("record.certificate"))
    g.compare("record.certificate", signed)
    full = f.Record(signed, backup, (x509,))
    g.compare("record.encoded", full.encode())
    first = f.open_entry(f.read_registry_entry(g.bytes("register.entry")), chip_id)
    signed = certificate(rom, chip_id, 1, first.certificate)
    sealed_entry(g, "register", f.REGISTER, 1, f.Record(signed, backup, ()), chip_id, nonce)
    sealed_entry(g, "supersede", f.SUPERSEDE, 2, full, chip_id, nonce)
    withdrawal(g, "scrap", f.SCRAP, 2, rom, chip_id)
    withdrawal(g, "erase", f.ERASE, 1, rom, chip_id)
    published(g, chip_id)

    key, entries = g.given("submission.key"), [g.bytes("register.entry"), g.bytes("scrap.entry")]
    payload = encode([1, 1, "spp-1", entries])
    g.compare("submission.payload", payload)
    g.compare("submission.statement", statement(key, "submission+cbor", payload, g.bytes("submission.statement")))
    _, _, missing = decode(g.bytes("batch"), "batch")
    g.compare("batch", encode([1, [[3, g.bytes("scrap.entry")]], missing]))
    refused(g)


def place(g: Golden, name: str, e: f.RegistryEntry) -> None:
    g.compare(f"{name}.generation", e.generation)
    g.compare(f"{name}.entry", e.encode())
    g.compare(f"{name}.leaf", e.leaf)
    g.compare(f"{name}.leaf_hash", e.leaf_hash)


def sealed_entry(g: Golden, name: str, kind: int, generation: int, r: f.Record, chip_id: bytes, nonce: bytes) -> None:
    e = f.RegistryEntry(1, kind, f.record_id(chip_id), generation, b"", b"")
    g.compare(f"{name}.seal_context", encode(e.place))
    sealed = encode(f.seal(f.record_key(chip_id, e), nonce, e.place, r.encode()))
    g.compare(f"{name}.sealed", sealed)
    place(g, name, f.RegistryEntry(1, kind, e.record_id, generation, sealed, b""))


def withdrawal(g: Golden, name: str, kind: int, generation: int, rom: bytes, chip_id: bytes) -> None:
    leaf = f.RegistryEntry(1, kind, f.record_id(chip_id), generation, b"", b"").leaf
    signed = statement(rom, "registry+cbor", leaf, g.bytes(f"{name}.statement"))
    g.compare(f"{name}.statement", signed)
    e = f.RegistryEntry(1, kind, f.record_id(chip_id), generation, b"", signed)
    f.check_withdrawal(e, rom)
    place(g, name, e)


def published(g: Golden, chip_id: bytes) -> None:
    """A certificates entry, which everyone reads."""
    name = "certificates"
    x = g.given("record.x509.0")
    content = encode([1, IDENTITY_URN, [x]])
    if f.read_public_certificates(content) != (IDENTITY_URN, [x]):
        raise Refused(f"{g.name}: what was published reads otherwise")
    g.compare(f"{name}.sealed", content)
    place(g, name, f.RegistryEntry(1, f.CERTIFICATES, f.record_id(chip_id), 2, content, b""))


def refused(g: Golden) -> None:
    """The entries that no reader may take."""
    for path in [p for p in g.values if p.startswith("refused.") and p.endswith(".entry")]:
        case = path.removesuffix(".entry") + ".case"
        try:
            f.read_registry_entry(g.bytes(path))
        except Refused:
            g.made |= {path, case}
        else:
            raise Refused(f"{g.name}: an entry with {g.raw(case)} was not refused")


# ---- §14.

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
    return ch.hello(suite, 1, key_id, (f.IMEI, IDENTITY_NAME), 1)


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


# ---- §16.


def message(g: Golden) -> None:
    recipient, sender, ephemeral = (f.scalar_key(g.given(f"{who}_private"), who) for who in ("recipient", "sender", "ephemeral"))
    certificate, body, message_id = g.given("certificate"), g.given("body"), g.given("message_id")
    g.inputs.add("content_type")
    point, content_type = f.public_point(recipient), g.raw("content_type")
    if x509.load_der_x509_certificate(certificate).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) != point:
        raise Refused(f"{g.name}: the certificate is of another key")
    key_id = sha256(point).digest()
    g.compare("key_id", key_id)
    g.compare("sender_public", f.public_point(sender))
    g.compare("info", msg.info(1, certificate))
    g.compare("aad", msg.associated(key_id, f.public_point(ephemeral)))
    content = msg.encode_content(1, certificate, message_id, content_type, body)
    g.compare("content", content)
    for i, signer in enumerate((None, f.public_point(sender))):
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


# ---- All.

FILES = {"identity": identity, "keypackage": keypackage, "registry": registry, "channel": channel, "message": message}


def compare_all(root: Path) -> None:
    for name, make in FILES.items():
        g = Golden(root / name / "testdata" / "golden.json")
        make(g)
        g.finish()
