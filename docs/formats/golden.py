"""A file of golden values, and what of it was made again.

A value is either given (a key, an ID, or what was drawn at random, which nothing can make
again) or made again and compared. A file that has a value which is neither is refused, so
that no vector goes unchecked. Of a signature only the verification can be repeated; all
around it is made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cbor2 import CBORTag

from cbor_strict import Refused, encode
from certificate import encode_claims, open_certificate
from statement import open_statement, protected

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
    open_statement(golden, kind, signer, kind)
    return encode(CBORTag(18, [protected(signer, kind), {}, payload, golden[-64:]]))


def claims(chip_id: bytes, generation: int, manifest: bytes) -> bytes:
    return encode_claims(IDENTITY_URN, ISSUED_AT, chip_id, 1, generation, manifest)


def certificate(rom: bytes, chip_id: bytes, generation: int, golden: bytes) -> bytes:
    manifest = open_certificate(golden, rom).manifest  # of a manifest that is in no file
    return statement(rom, "identity+cwt", claims(chip_id, generation, manifest), golden)
