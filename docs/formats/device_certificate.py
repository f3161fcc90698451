"""X.509 certificates of devices, §15 of formats.md.

A certificate is checked by making it again: of what the CA signed, all but the serial
number, the time of issue and the order of the extensions follows from what it is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import der
from cbor_strict import Refused
from manifest import ES256
from points import P256, SPKI_HEAD

CERTIFICATE_LIMIT = 2048
ARC = "1.3.6.1.4.1.32473.4.1"
REALMS = {1: "development", 2: "production"}
ECDSA_SHA256 = "1.2.840.10045.4.3.2"
KEY_USAGE, EXT_KEY_USAGE, BASIC, SUBJECT_KEY, AUTHORITY_KEY, ALT_NAME = (f"2.5.29.{n}" for n in (15, 37, 19, 14, 35, 17))
CLIENT_AUTH, SERVER_AUTH = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"
HARDWARE_MODULE_NAME = "1.3.6.1.5.5.7.8.4"
LAST = der.item(0x18, b"99991231235959Z")


@dataclass(frozen=True)
class Want:
    """What a certificate is to be for."""

    realm: int
    line: str
    algorithm: int
    point: bytes
    record_id: bytes = b""  # empty: made before its device
    urn: str = ""  # empty: it names no identity

    @property
    def number(self) -> bytes:
        """The 32 bytes in the subject and in hardwareModuleName."""
        return self.record_id or sha256(SPKI_HEAD + self.point).digest()


def subject(w: Want) -> bytes:
    names = (
        ("2.5.4.10", f"Devicekeys {REALMS[w.realm]}"),
        ("2.5.4.11", w.line),
        ("2.5.4.3", "device record" if w.record_id else "device key"),
        ("2.5.4.5", w.number.hex()),
    )
    return der.sequence(*(der.item(0x31, der.sequence(der.oid(o), der.printable(value))) for o, value in names))


def extensions(w: Want, authority: bytes) -> dict[str, bytes]:
    """Every extension, by its object identifier."""
    signs = w.algorithm == ES256
    usage = der.bit_string(b"\x80", 7) if signs else der.bit_string(b"\x08", 3)
    hardware = der.sequence(der.oid(f"{ARC}.{1 if w.record_id else 2}"), der.octet_string(w.number))
    names = der.item(0xA0, der.oid(HARDWARE_MODULE_NAME), der.item(0xA0, hardware))
    if w.urn:
        names += der.item(0x86, w.urn.encode("ascii"))
    values = {
        KEY_USAGE: (True, usage),
        BASIC: (True, der.sequence()),
        SUBJECT_KEY: (False, der.octet_string(sha256(w.point).digest()[:20])),
        AUTHORITY_KEY: (False, der.sequence(der.item(0x80, authority))),
        ALT_NAME: (False, der.sequence(names)),
    }
    if signs:
        values[EXT_KEY_USAGE] = (False, der.sequence(der.oid(CLIENT_AUTH), der.oid(SERVER_AUTH)))
    critical = der.item(0x01, b"\xff")
    return {o: der.sequence(der.oid(o), critical if c else b"", der.octet_string(v)) for o, (c, v) in values.items()}


def time(at: datetime) -> bytes:
    """A time as RFC 5280 §4.1.2.5 has it."""
    if at.year < 2050:
        return der.item(0x17, at.strftime("%y%m%d%H%M%SZ").encode())
    return der.item(0x18, at.strftime("%Y%m%d%H%M%SZ").encode())


def validity(c: x509.Certificate) -> tuple[datetime, datetime]:
    """Give both ends of it in UTC, by python3-cryptography's newer names where it has them."""
    if hasattr(c, "not_valid_before_utc"):
        return c.not_valid_before_utc, c.not_valid_after_utc
    return c.not_valid_before, c.not_valid_after


def read_ca(data: bytes, realm: int) -> x509.Certificate:
    """Read a device CA's certificate, signed by itself."""
    what = "device CA"
    try:
        ca = x509.load_der_x509_certificate(data)
        names = [n.value for n in ca.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        basic, usage = (ca.extensions.get_extension_for_class(c) for c in (x509.BasicConstraints, x509.KeyUsage))
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        key = ca.public_key()
    except (ValueError, x509.ExtensionNotFound) as e:
        raise Refused(f"{what}: {e}") from e
    if names != [f"{REALMS[realm]} device CA"] or ca.issuer != ca.subject:
        raise Refused(f"{what}: it is none of this realm")
    if not basic.value.ca or basic.value.path_length != 0 or not usage.value.key_cert_sign:
        raise Refused(f"{what}: it may not sign, or another CA could be below it")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != P256.name:
        raise Refused(f"{what}: its key is not of P-256")
    verify(ca, ca, what)
    return ca


def verify(c: x509.Certificate, ca: x509.Certificate, what: str) -> None:
    try:
        ca.public_key().verify(c.signature, c.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(f"{what}: the CA's signature does not verify") from None


def make_again(data: bytes, ca: x509.Certificate, w: Want) -> bytes:
    """Make a certificate of this CA anew, around its signature, once that verifies."""
    what = "device certificate"
    if len(data) > CERTIFICATE_LIMIT:
        raise Refused(f"{what}: it has more than {CERTIFICATE_LIMIT} bytes")
    try:
        c = x509.load_der_x509_certificate(data)
        order = [e.oid.dotted_string for e in c.extensions]
    except ValueError as e:
        raise Refused(f"{what}: {e}") from e
    verify(c, ca, what)
    begin, end = validity(ca)
    if not begin <= validity(c)[0] <= end:
        raise Refused(f"{what}: the CA was not valid when it was issued")
    if not 0 < c.serial_number < 2**159:
        raise Refused(f"{what}: the serial number is not positive, or longer than 20 bytes")
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    made = extensions(w, identifier)
    if sorted(order) != sorted(made):
        raise Refused(f"{what}: its extensions are others: {', '.join(order)}")
    algorithm = der.sequence(der.oid(ECDSA_SHA256))
    signed = der.sequence(
        der.item(0xA0, der.integer(2)),
        der.integer(c.serial_number),
        algorithm,
        ca.subject.public_bytes(),
        der.sequence(time(validity(c)[0]), LAST),
        subject(w),
        SPKI_HEAD + w.point,
        der.item(0xA3, der.sequence(*(made[o] for o in order))),
    )
    return der.sequence(signed, algorithm, der.bit_string(c.signature))
