# SPDX-License-Identifier: GPL-2.0-or-later
"""The wait for a cluster that has nothing to do, with a scripted DC."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab import idle

#: Says the DC's state, of a file the next line each time; the last one for ever.
CRMADMIN = """#!/bin/sh
if [ "$1" = -D ]; then echo "Designated Controller is: node1 (2.1.5)"; exit; fi
[ "$2" = node1 ] || exit 1
echo "Controller on node1 in state $(head -n 1 {states}): ok"
[ "$(wc -l <{states})" -eq 1 ] || sed -i 1d {states}
"""


@pytest.fixture
def states(tmp_path: Path) -> Path:
    path = tmp_path / "states"
    for name, text in (("crmadmin", CRMADMIN.format(states=path)), ("crm_mon", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return path


def wait(states: Path, limit_s: int) -> subprocess.CompletedProcess[str]:
    command = idle.COMMAND.replace(str(idle.LIMIT_S), str(limit_s))
    return subprocess.run(
        ["sh", "-c", command],
        env={"PATH": f"{states.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_idle_once_is_not_enough(states: Path) -> None:
    """The DC may not know of a change yet."""
    states.write_text("S_IDLE\nS_POLICY_ENGINE\nS_TRANSITION_ENGINE\nS_IDLE\n")
    assert wait(states, 25).returncode == 0
    assert states.read_text() == "S_IDLE\n"


def test_waiting_for_idle_ends_at_its_limit(states: Path) -> None:
    states.write_text("S_TRANSITION_ENGINE\n")
    done = wait(states, 1)
    assert done.returncode == 1
    assert "the cluster is not idle after 1 s" in done.stderr
