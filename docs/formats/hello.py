"""The hello, §8 of formats.md."""

from __future__ import annotations

from dataclasses import dataclass

from cbor_strict import decode
from names import chip_id_of
from points import point_key
from values import array, number, octets, realm_of, version

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
