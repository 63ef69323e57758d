# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs an agent's action, if the library is here as it was installed.

A file that is cut off between two functions, or that is of another version
than the rest, may well be loaded, and do the wrong thing: a stop that ends too
early says that the VM is gone.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_library", "run_agent"]

#: Written by ``make install``: lines ``SIZE PATH``. A source tree has none.
SIZES = "vesper_monitor/installed-sizes"


def check_library(tree: str) -> None:
    """Check that each file has the size that was installed.

    :param tree: folder of the package ``vesper_monitor``.
    :raises ImportError: one is missing, or has another size.
    """
    try:
        with open(os.path.join(tree, SIZES)) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        size, _, path = line.partition(" ")
        try:
            found = os.stat(os.path.join(tree, path)).st_size
        except OSError as error:
            raise ImportError(f"{path}: {error.strerror}") from None
        if str(found) != size:
            raise ImportError(f"{path} has {found} bytes, not {size}")


def run_agent(
    tree: str, agent: str, arguments: list[str], environ: Mapping[str, str], said: bytes
) -> int:
    """Do an action; return its exit code.

    :param agent: XenVM or LibvirtVM.
    :param said: the answer that vesperd gave already (:mod:`vesper_monitor.ocf.fast_monitor`).
    """
    check_library(tree)
    if agent == "XenVM":
        from vesper_monitor.ocf.xen.parameters import main
    else:
        from vesper_monitor.ocf.libvirt.parameters import main
    return main(arguments, environ, said)
