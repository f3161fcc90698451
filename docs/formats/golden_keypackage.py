"""The golden values of §6 to §10, §12, §13 and §17 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

from cbor_strict import BACKUP_CODE, Refused, decode, encode
from contents import check_value, commitment
from golden import IDENTITY_NAME, IDENTITY_URN, Golden, claims, statement
from golden_keys import by_kdf2, travelling, waiting
from hello import Hello, read_hello
from keys import chip_context, device_context, kdf1, purpose_context, transfer_context
from manifest import ES256, GCM, HMAC256, NO_KEY, Entry, Manifest, read_manifest
from names import IMEI
from package import transcript
from points import public_point, scalar_key
from sealed import gcm_data, seal, unseal
from waiting import pool_data


def keypackage(g: Golden) -> None:
    m = keys_and_manifest(g)
    t, agreed, hello = transfer(g, m)
    package_parts(g, m, t, agreed, hello)
    backup_parts(g, m)
    messages(g, m, t)
    by_kdf2(g, m)
    travelling(g, waiting(g))


def keys_and_manifest(g: Golden) -> Manifest:
    """The master key's descendants, and a manifest with each form of entry."""
    chip_id = read_manifest(g.bytes("manifest")).chip_id
    empty = Manifest(1, (IMEI, IDENTITY_NAME), chip_id, 1, ())
    purpose = purpose_context(1, 1, 1, "channel")
    g.compare("purpose_context", encode(purpose))
    purpose_key = kdf1(g.given("master_key"), purpose)
    g.compare("purpose_key", purpose_key)
    context = device_context(1, 1, 1, "channel", empty)
    g.compare("device_key_context", encode(context))
    channel = kdf1(purpose_key, context)
    g.compare("device_key", channel)

    # The licensor's key and the key pair are in no file but wrapped.
    golden = read_manifest(g.bytes("manifest"))
    _, pair, drm = wrapped_values(g)
    [[random, code]] = decode(g.bytes("secrets_plaintext"), "secrets")
    entries = [
        Entry(1, ("channel", 1, 1), HMAC256, False, b""),
        Entry(2, ("tls", 0, 0), ES256, False, golden.entries[1].vouch),
        Entry(3, ("drm", 0, 0), GCM, False, b""),
        Entry(4, ("sim-lock", 0, 0), NO_KEY, False, commitment(random, code)),
        Entry(5, ("region", 0, 0), NO_KEY, True, b"EU"),
    ]
    for i, key in ((0, channel), (2, drm)):
        e = entries[i]
        message = empty.check_message(e)
        entries[i] = Entry(e.kind, e.key_id, e.algorithm, e.clear, check_value(key, message))
    g.compare("check_message", empty.check_message(entries[0]))
    g.compare("check_value", entries[0].vouch)
    g.compare("sim_lock_commitment", entries[3].vouch)
    m = Manifest(1, empty.identity, chip_id, 1, tuple(entries))
    g.compare("manifest", m.encode())
    g.compare("manifest_hash", sha256(m.encode()).digest())
    payload = claims(chip_id, 1, sha256(m.encode()).digest())
    g.compare("claims", payload)
    g.compare("claims_hash", sha256(payload).digest())
    return m


def wrapped_values(g: Golden) -> list[bytes]:
    wrapped, _ = decode(g.bytes("backup_plaintext"), "backup plaintext")
    return [aes_key_unwrap(g.bytes("chip_wrap_key"), w) for w in wrapped]


def transfer(g: Golden, m: Manifest) -> tuple[bytes, bytes, Hello]:
    d, s = (scalar_key(g.given(name), name) for name in ("private_d", "private_s"))
    hello = read_hello(g.bytes("hello"))
    g.compare("hello", encode([1, 1, 1, m.chip_id, hello.rom_key_hash, public_point(d)]))
    t = transcript(hello.m1, public_point(s), g.bytes("claims"))
    g.compare("transcript", t)
    agreed = d.exchange(ec.ECDH(), s.public_key())
    g.compare("agreed_secret", agreed)
    return t, agreed, hello


def package_parts(g: Golden, m: Manifest, t: bytes, agreed: bytes, hello: Hello) -> None:
    context = transfer_context(hello.suite, "kek", t)
    g.compare("kek_context", encode(context))
    kek = kdf1(agreed, context)
    g.compare("kek", kek)
    key = kdf1(agreed, transfer_context(hello.suite, "pkg", t))
    g.compare("package_key", key)
    g.compare("device_key_under_kek", aes_key_wrap(kek, g.bytes("device_key")))
    external = ["dk-package", 1, t]
    g.compare("package_gcm_aad", gcm_data(external))
    _, nonce, _ = decode(g.bytes("secrets_sealed"), "sealed secrets")
    plain = unseal(key, decode(g.bytes("secrets_sealed"), "sealed secrets"), external, "secrets")
    secrets = [list(pair) for pair in decode(plain, "secrets")]
    g.compare("secrets_plaintext", encode(secrets))
    g.compare("secrets_sealed", encode(seal(key, nonce[5], external, encode(secrets))))


def backup_parts(g: Golden, m: Manifest) -> None:
    chip_key, claims_hash = g.given("chip_key"), g.bytes("claims_hash")
    context = chip_context(1, "wrap", claims_hash)
    g.compare("chip_wrap_context", encode(context))
    wrap_key = kdf1(chip_key, context)
    g.compare("chip_wrap_key", wrap_key)
    seal_key = kdf1(chip_key, chip_context(1, "seal", claims_hash))
    g.compare("chip_seal_key", seal_key)
    _, pair, drm = wrapped_values(g)  # the first is derived, and so made again
    wrapped = [aes_key_wrap(wrap_key, k) for k in (g.bytes("device_key"), pair, drm)]
    plain = encode([wrapped, decode(g.bytes("secrets_plaintext"), "secrets")])
    g.compare("backup_plaintext", plain)
    external = ["dk-backup", 1, BACKUP_CODE, claims_hash]
    g.compare("backup_gcm_aad", gcm_data(external))
    _, manifest, (_, nonce, _) = decode(g.bytes("backup"), "backup").value
    made = encode([1, m.encode(), seal(seal_key, nonce[5], external, plain)])
    g.compare("backup", BACKUP_CODE + made)


def messages(g: Golden, m: Manifest, t: bytes) -> None:
    claims_hash, backup_hash = g.bytes("claims_hash"), sha256(g.bytes("backup")).digest()
    challenge = decode(g.bytes("restored_message"), "restored message")[-1]
    g.compare("confirm_message", encode(["dk-confirm", 1, t, backup_hash]))
    g.compare("restored_message", encode(["dk-restored", 1, claims_hash, backup_hash, challenge]))
    g.compare("published_message", encode(["dk-published", 1, claims_hash]))
    g.compare("locked_message", encode(["dk-locked", 1, claims_hash]))
    g.compare("pool_aad", encode(pool_data(1, 1, IDENTITY_URN, "sim-lock")))
    try:
        read_manifest(g.given("manifest_refused"))
    except Refused:
        pass
    else:
        raise Refused(f"{g.name}: a manifest with one point twice is read")
    payload = encode([1, 1, "meter", sha256(g.given("key_file")).digest()])
    g.compare("key_file_statement", statement(g.given("key_file_sender"), "key-file+cbor", payload, g.bytes("key_file_statement")))
