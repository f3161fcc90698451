"""The golden values of §15 of formats.md."""

from __future__ import annotations

from hashlib import sha256

from cbor_strict import Refused
from device_certificate import Want, make_again, read_ca
from golden import Golden
from manifest import ECDH, ES256

ALGORITHMS = {"es256": ES256, "ecdh-p256": ECDH}
LINE = "phone-a"


def devicecert(g: Golden) -> None:
    ca = read_ca(g.given("ca"), 1)
    for i in range(4):
        at = f"certificates.{i}"
        golden, urn = g.bytes(f"{at}.certificate"), g.raw(f"{at}.urn")
        g.inputs |= {f"{at}.algorithm", f"{at}.urn"}
        w = Want(1, LINE, ALGORITHMS[g.raw(f"{at}.algorithm")], g.given(f"{at}.public"), g.given(f"{at}.record_id"), urn)
        g.compare(f"{at}.certificate", make_again(golden, ca, w))
        g.compare(f"{at}.sha256", sha256(golden).digest())
        try:
            other = make_again(golden, ca, Want(1, LINE, w.algorithm, w.point, sha256(w.record_id).digest(), urn))
        except Refused:
            continue
        if other == golden:
            raise Refused(f"{g.name}: {at} is as well of another device")
