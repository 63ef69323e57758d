# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's modules, the probes and the tests' own modules and programs, of the present tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab import images

__all__ = ["build"]

PROJECT = Path(__file__).resolve().parents[2]


def build(kernel: images.Kernel, work: Path) -> tuple[Path, ...]:
    """
    :param work: an empty directory, which the files stay in.
    """
    for part in ("probe_modules", "xen_transport/guest", "tests/guest_modules"):
        subprocess.run(["cp", "-r", "--parents", part, work], cwd=PROJECT, check=True, timeout=60)
        # Built of an older tree, and after the copy as new as its sources.
        shutil.rmtree(work / part / "build", ignore_errors=True)
    for part in ("probe_modules", "tests/guest_modules"):
        built = subprocess.run(
            ["make", "-C", work / part, f"KDIR={kernel.kdir}", "W=1"],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert built.returncode == 0, built.stdout + built.stderr
        assert "warning:" not in built.stdout + built.stderr
    return tuple(
        path
        for part in ("probe_modules", "tests/guest_modules")
        for path in (work / part / "build" / kernel.release).iterdir()
        if path.is_file()
    )
