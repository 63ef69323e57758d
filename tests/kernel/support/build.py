# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's modules, the probes and the tests' own modules and programs, of the present tree."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import images
from lab.images import store
from lab.images.toolchain import run_in_toolchain

__all__ = ["build"]

PROJECT = Path(__file__).resolve().parents[3]
PARTS = ("probe_modules", "*_transport/guest", "tests/guest_modules")


def build(kernel: images.Kernel) -> tuple[Path, ...]:
    """Return the modules and programs, built when a source has changed, without a warning.

    :raises BuildError: with the compiler's words.
    """
    sources = sorted(
        path.relative_to(PROJECT)
        for part in PARTS
        for path in PROJECT.glob(f"{part}/**/*")
        if path.is_file() and "build" not in path.relative_to(PROJECT).parts
    )

    def make(directory: Path) -> None:
        work = directory / "source"
        for path in sources:
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / path, work / path)
        (directory / "built").mkdir()
        for part in ("probe_modules", "tests/guest_modules"):
            said = run_in_toolchain(
                kernel.toolchain,
                ["sh", "-c", 'exec "$@" 2>&1', "sh",
                 "make", "-C", f"source/{part}", f"KDIR={kernel.kdir}", "W=1"],
                timeout=900, cwd=directory,
            ).decode(errors="replace")  # fmt: skip
            if "warning:" in said:
                raise store.BuildError(f"{part}: {said[-5000:]}")
            for path in (work / part / "build" / kernel.release).iterdir():
                if path.is_file():
                    shutil.copy2(path, directory / "built")
        shutil.rmtree(work)

    names = [str(path) for path in sources]
    key = store.hash_inputs(kernel.release, *names, *(PROJECT / path for path in sources))
    directory = store.build_image("guest-tests", key, make, what="building modules and programs")
    return tuple(sorted((directory / "built").iterdir()))
