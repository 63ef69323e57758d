# SPDX-License-Identifier: GPL-2.0-or-later
"""The layers of a node's root: the lab's stand-ins, the project, Debian."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import images
from lab.images import store
from lab.images.probes import PROJECT
from lab.standin.image import make_store

__all__ = ["make_layers", "make_project"]

#: Entry point by which vesperd in the nodes finds the stand-in transport.
METADATA = "Metadata-Version: 2.1\nName: vesper-standin\nVersion: 0\n"
ENTRY_POINTS = "[vesper.transports]\nstandin = lab.standin.transport:StandinTransport\n"


def make_layers(directory: Path) -> list[Path]:
    """Make them in an empty folder.

    :returns: folders, the topmost first.
    :raises store.BuildError: the installation failed.
    """
    project, standins = directory / "project", directory / "standins"
    make_project(project)
    _add_standins(standins)
    return [standins, project, images.debian_tree()]


def make_project(layer: Path) -> None:
    """Install the project, as ``make install`` does.

    :raises store.BuildError: the installation failed.
    """
    store.run_build_command(
        ["make", "-s", "-C", PROJECT, "install", f"DESTDIR={layer}"], timeout=120
    )
    # /lib is a link in Debian's tree and must stay one.
    if (layer / "lib").is_dir():
        shutil.copytree(layer / "lib", layer / "usr/lib", dirs_exist_ok=True)
        shutil.rmtree(layer / "lib")


def _add_standins(layer: Path) -> None:
    python = layer / "usr/lib/python3/dist-packages"
    package = python / "lab"
    package.mkdir(parents=True)
    for name in ("__init__.py", "progress.py"):
        shutil.copy(PROJECT / "lab" / name, package)
    shutil.copytree(
        PROJECT / "lab/standin", package / "standin", ignore=shutil.ignore_patterns("__pycache__")
    )
    info = python / "vesper_standin-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    make_store(layer / "var/lib/vesper/probes")
    # In place of Xen's xl: equal commands and output, other domains.
    sbin = layer / "usr/sbin"
    sbin.mkdir()
    shutil.copy(PROJECT / "lab/standin/xl", sbin / "xl")
    (sbin / "xl").chmod(0o755)
    shutil.copy(Path(__file__).with_name("fence_lab"), sbin)
