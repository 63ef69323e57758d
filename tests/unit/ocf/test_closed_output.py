# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent whose output is closed says nothing, and does what it does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("agent", ["XenVM", "LibvirtVM"])
def test_a_stop_succeeds_whatever_outputs_are_closed(
    tmp_path: Path, agent: str, closed: str
) -> None:
    """No toolstack, no vesperd: nothing runs, and that nobody could read why is no failure."""
    (tmp_path / "run").mkdir()
    (tmp_path / "sys").mkdir()

    def stop(redirections: str) -> int:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$0" stop {redirections}', str(PROJECT / "ocf" / agent)],
            env={
                "PATH": str(tmp_path), "OCF_ROOT": "/usr/lib/ocf", "OCF_RESOURCE_INSTANCE": "r1",
                "OCF_RESKEY_xmfile": str(tmp_path / "none"),
                "OCF_RESKEY_config": str(tmp_path / "none"),
                "HA_RSCTMP": str(tmp_path / "run"), "VESPER_SOCKET": str(tmp_path / "none.sock"),
                "VESPER_QEMU_RUN": str(tmp_path / "run"),
            },
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode

    assert stop(closed) == stop("")
