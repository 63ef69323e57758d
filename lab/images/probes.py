# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's own kernel modules, built for the labs' kernel."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.images import store
from lab.images.kernel import Headers
from lab.images.toolchain import run_in_toolchain

__all__ = ["FRONTENDS", "SOURCES", "Modules", "build_modules"]

PROJECT = Path(__file__).resolve().parents[2]

#: Folders whose files decide whether modules must be built again.
SOURCES = ("probe_modules", "*_transport/guest")

#: Modules that belong into the guest, besides the core (vesper).  All others are probes,
#: which the host sends.
FRONTENDS = ("vesper_xen", "vesper_ivshmem")


@dataclass(frozen=True)
class Modules:
    release: str
    core: Path
    frontends: Mapping[str, Path]  #: by name; those that the kernel can have
    probes: tuple[Path, ...]

    def guest_modules(self, frontend: str) -> tuple[Path, ...]:
        """Return the modules of a guest, in loading order."""
        return (self.core, self.frontends[frontend])


def _list_sources() -> list[Path]:
    return sorted(
        path
        for folder in SOURCES
        for path in PROJECT.glob(f"{folder}/**/*")
        if path.is_file() and path.suffix in (".c", ".h", ".S", ".sh", ".mk", ".lds", "")
        if "build" not in path.relative_to(PROJECT).parts
    )


def build_modules(kernel: Headers) -> Modules:
    """Return the modules for that kernel; build them if a source has changed.

    :raises BuildError: with the compiler's words.
    """
    sources = _list_sources()

    def build_in_folder(directory: Path) -> None:
        # A copy, so that the build of one kernel leaves nothing in the sources
        # and nothing of theirs gets in.
        for path in sources:
            copy = directory / "source" / path.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        run_in_toolchain(
            kernel.toolchain, ["make", "-C", "source/probe_modules", f"KDIR={kernel.kdir}"],
            timeout=600, cwd=directory,
        )  # fmt: skip
        built = directory / "source/probe_modules/build" / kernel.release
        shutil.copytree(built, directory / kernel.release, ignore=_only_modules)
        shutil.rmtree(directory / "source")

    names = [str(path.relative_to(PROJECT)) for path in sources]
    directory = store.build_image(
        "modules",
        store.hash_inputs(kernel.release, str(kernel.kdir), kernel.toolchain, *names, *sources),
        build_in_folder,
        what=f"building the modules for {kernel.release}",
    )
    found = {path.stem: path for path in sorted((directory / kernel.release).glob("*.ko"))}
    return Modules(
        release=kernel.release,
        core=found.pop("vesper"),
        frontends={name: found.pop(name) for name in FRONTENDS if name in found},
        probes=tuple(found.values()),
    )


def _only_modules(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".ko")}
