# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's modules and those of the tests, built for one kernel and kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import images
from lab.images import store

__all__ = ["build"]

PROJECT = Path(__file__).resolve().parents[2]

FOLDERS = ("probe_modules", "xen_transport/guest", "kvm_transport/guest", "tests/guest_modules")
BUILT = ("probe_modules", "tests/guest_modules")


def _sources() -> list[Path]:
    return sorted(
        path
        for folder in FOLDERS
        for path in (PROJECT / folder).glob("**/*")
        if path.is_file() and "build" not in path.relative_to(PROJECT).parts
    )


def build(kernel: images.Kernel) -> tuple[Path, ...]:
    """Modules and programs.

    :raises BuildError: the compiler has a complaint, be it a warning.
    """
    sources = _sources()

    def make(directory: Path) -> None:
        for path in sources:
            copy = directory / "source" / path.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        for part in BUILT:
            source = directory / "source" / part
            command = f"make -C {source} KDIR={kernel.kdir} W=1 2>&1"
            said = store.run(["sh", "-c", command], timeout=900).decode()
            if "warning:" in said:
                raise store.BuildError(said)
            for path in (source / "build" / kernel.release).iterdir():
                if path.is_file():
                    shutil.copy2(path, directory)
        shutil.rmtree(directory / "source")

    names = [str(path.relative_to(PROJECT)) for path in sources]
    key = store.digest(kernel.release, str(kernel.kdir), *names, *sources)
    directory = store.build(
        "test-modules", key, make, what=f"building the test guest's modules for {kernel.release}"
    )
    return tuple(sorted(path for path in directory.iterdir() if path.is_file()))
