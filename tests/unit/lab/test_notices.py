# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests have to say is seen at the end, from whichever process they ran in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.notices import LOUD_WARNING, NOTICE

PROJECT = Path(__file__).resolve().parents[3]

CONFTEST = """
from tests.support.notices import Notices
def pytest_configure(config):
    config.pluginmanager.register(Notices())
"""
TESTS = f"""
import pytest
@pytest.mark.parametrize("number", [1, 2])
def test_speaks(number, record_property):
    record_property({NOTICE!r}, f"built {{number}}")
    record_property({LOUD_WARNING!r}, f"not built {{number}}")
"""


def test_notices_come_last_and_fail_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_speaks.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-c", "/dev/null", "--rootdir", tmp_path, "-rA",
         tmp_path],
        cwd=tmp_path, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert "2 passed" in last
    said = lines[-6:]
    assert sorted(said[:2]) == ["built 1", "built 2"]
    assert "WARNING" in said[2]
    assert sorted(said[3:5]) == ["not built 1", "not built 2"]
    assert set(said[5]) == {"!"}
