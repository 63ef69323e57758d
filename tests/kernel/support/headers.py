# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel headers as of a kernel that was configured otherwise."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["without_options"]


def without_options(kdir: Path, directory: Path, options: Iterable[str], symbols: str) -> Path:
    """Make a copy of a kernel's headers whose configuration lacks some options.

    :param kdir: the flavour's headers.
    :param directory: where to; is made.
    :param options: regular expressions of names, without ``CONFIG_``.
    :param symbols: a regular expression of exported symbols that are gone with them.
    """
    directory.mkdir()
    for path in kdir.iterdir():
        if path.name in ("scripts", "tools"):
            (directory / path.name).symlink_to(path.resolve())
        elif path.is_dir():
            shutil.copytree(path, directory / path.name, symlinks=True)
        else:
            shutil.copy2(path, directory / path.name)
    makefile = directory / "Makefile"
    text = makefile.read_text()
    makefile.write_text(text.replace("$(dir $(lastword $(MAKEFILE_LIST)))..", str(kdir.parent)))
    names = "|".join(options)
    for name, line in (
        ("include/config/auto.conf", rf"^CONFIG_(?:{names})=.*\n"),
        ("include/generated/autoconf.h", rf"^#define CONFIG_(?:{names})(?:_MODULE)? .*\n"),
        ("Module.symvers", rf"^\S+\t(?:{symbols})\t.*\n"),
    ):
        path = directory / name
        changed, count = re.subn(line, "", path.read_text(), flags=re.MULTILINE)
        assert count, f"{path} has none of them"
        path.write_text(changed)
    return directory
