# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's modules and those of the tests, built for one kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab import images

__all__ = ["build"]

PROJECT = Path(__file__).resolve().parents[2]

SOURCES = ("probe_modules", "xen_transport/guest", "kvm_transport/guest", "tests/guest_modules")
BUILT = ("probe_modules", "tests/guest_modules")


def build(kernel: images.Kernel, work: Path) -> tuple[Path, ...]:
    """Modules and programs; the compiler may have no complaint.

    :param work: an empty directory.
    """
    for part in SOURCES:
        subprocess.run(["cp", "-r", "--parents", part, work], cwd=PROJECT, check=True, timeout=60)
        # Built of an older tree, and after the copy as new as its sources.
        shutil.rmtree(work / part / "build", ignore_errors=True)
    for part in BUILT:
        built = subprocess.run(
            ["make", "-C", work / part, f"KDIR={kernel.kdir}", "W=1"],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert built.returncode == 0, built.stdout + built.stderr
        assert "warning:" not in built.stdout + built.stderr
    return tuple(
        path
        for part in BUILT
        for path in (work / part / "build" / kernel.release).iterdir()
        if path.is_file()
    )
