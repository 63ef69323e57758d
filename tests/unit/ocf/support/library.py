# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of the agents and their library, of which a test may damage a file."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.unit.ocf.support.host import PROJECT

__all__ = ["copy_library", "damage", "find_agent_modules", "install"]


def install(destination: Path, source: Path = PROJECT) -> None:
    """``make install``, below a folder."""
    subprocess.run(
        ["make", "-s", "-C", str(source), "install", f"DESTDIR={destination}"],
        check=True,
        capture_output=True,
        timeout=60,
    )


def copy_library(installed: Path, folder: Path) -> Path:
    """Copy what was installed, so that its agents use the copy; return the agents' folder."""
    library = installed / "usr/lib/python3/dist-packages/vesper_monitor"
    others = shutil.ignore_patterns("command", "daemon", "faults", "journal", "pacemaker")
    shutil.copytree(library, folder / "vesper_monitor", ignore=others)
    return Path(shutil.copytree(installed / "usr/lib/ocf/resource.d/vesper", folder / "ocf"))


def find_agent_modules(library: Path) -> set[str]:
    """Return the paths of all modules that an action of an agent may import.

    :param library: folder of the package ``vesper_monitor``.
    """
    pending = [*(library / "vesper_monitor/ocf").rglob("*.py")]
    found: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for name in _imported_names(ast.parse(path.read_text())):
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                base = library.joinpath(*parts[:count])
                pending += filter(Path.is_file, (base / "__init__.py", base.with_suffix(".py")))
    return {str(path.relative_to(library)) for path in found}


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module imports at run time, at its top or later."""
    ignored: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            ignored |= {id(inner) for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def damage(path: Path, how: str) -> None:
    """
    :param how: ``missing``, ``empty``, ``half``, or the text before which the file ends.
    """
    text = path.read_text()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_text("")
    elif how == "half":
        path.write_text(text[: len(text) // 2])
    else:
        assert text.count(how) == 1, how
        path.write_text(text.partition(how)[0])
