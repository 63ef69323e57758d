# SPDX-License-Identifier: GPL-2.0-or-later
"""Build Debian trees with mmdebstrap, for all images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lab.images import store

__all__ = ["make_debian_tree"]

#: The archive's mirror may be slow.
TIMEOUT_S = 1800


def make_debian_tree(
    tree: Path,
    suite: str,
    packages: Iterable[str],
    *,
    variant: str = "minbase",
    exclude: Iterable[str] = (),
    hooks: Iterable[str] = (),
) -> None:
    """Make a tree of a suite's packages, from ``VESPER_LAB_MIRROR`` if that is set.

    :param variant: of mmdebstrap(1): ``extract`` starts no program of the tree.
    :param exclude: patterns of paths that are not unpacked.
    :param hooks: shell commands that complete the tree, ``$1``.
    :raises BuildError: mmdebstrap failed, e.g. no Debian mirror to be reached.
    """
    mirror = os.environ.get("VESPER_LAB_MIRROR")
    command: list[str | Path] = [
        "mmdebstrap",
        "--mode=root",
        f"--variant={variant}",
        "--aptopt=Acquire::Languages none",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Retries 3",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in exclude),
        "--include=" + ",".join(packages),
        *(f"--customize-hook={hook}" for hook in hooks),
        suite,
        tree,
        *([mirror] if mirror else []),
    ]
    store.run_build_command(command, timeout=TIMEOUT_S)
