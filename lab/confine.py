# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a daemon in a lab with the capabilities of its systemd unit, as labs have no systemd.

Other parts of a unit's sandbox are left out: a program notices missing capabilities
first. The whole sandbox is tested in tests/unit/daemon/test_units.py.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["confine_like"]

VESPERD = Path(__file__).parents[1] / "vesper_monitor" / "vesperd.service"


def confine_like(unit: Path = VESPERD) -> list[str]:
    """Return words that go before a command, to run it as the unit's service runs."""
    match = re.search(r"^CapabilityBoundingSet=(.+)$", unit.read_text(encoding="utf-8"), re.M)
    assert match is not None, unit
    kept = [name.removeprefix("CAP_").lower() for name in match[1].split()]
    bounds = ",".join(["-all", *(f"+{name}" for name in kept)])
    return ["setpriv", "--no-new-privs", f"--bounding-set={bounds}"]
