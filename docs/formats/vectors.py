"""Makes every golden value again from the text of formats.md, and compares."""

from __future__ import annotations

from pathlib import Path

import calls
from golden import Golden
from golden_channel import channel
from golden_devicecert import devicecert
from golden_identity import identity
from golden_keypackage import keypackage
from golden_message import message
from golden_registry import registry

FILES = {"identity": identity, "keypackage": keypackage, "registry": registry, "devicecert": devicecert, "channel": channel, "message": message}
PAGE = Path(__file__).resolve().parents[1] / "formats.md"  # the vectors of §18 stand in its text alone


def compare_all(root: Path) -> None:
    for name, make in FILES.items():
        g = Golden(root / name / "testdata" / "golden.json")
        make(g)
        g.finish()
    calls.compare(PAGE)
