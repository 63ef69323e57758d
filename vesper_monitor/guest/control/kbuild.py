# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the kernel's build system over the guest's modules, and go on without those that fail.

A kernel may differ from all that were known when a probe was written: that
probe is left out, and the others are built.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path, PurePosixPath

from vesper_monitor.util.errors import VesperError

__all__ = ["KbuildError", "build_modules", "find_failures"]

#: s for all runs of make.
BUILD_LIMIT_S = 600.0
#: Runs of make: one finds all compiler errors, the next the errors of modpost.
MAX_RUNS = 4

#: The module that all others need.
CORE = "vesper"

_FAILED_OBJECT = re.compile(r"\*\*\* \[(?:[^\]]*: )?(?P<path>[^\]\s]+)\.o\] Error \d+")
_FAILED_LINK = re.compile(r"ERROR: modpost: .*?(?P<path>[\w./+~-]*\w)\.k?o\b")
_COMPLAINT = re.compile(r"(?P<path>\S+?):\d+(?::\d+)?: (?:fatal )?[Ee]rror: ")


class KbuildError(VesperError):
    """Nothing can be built; the text ends with make's last lines."""


def build_modules(modules: Path, headers: Path) -> dict[str, str]:
    """Build all modules that can be built for a kernel. Blocks.

    :param modules: the folder ``probe_modules`` of the project's sources.
    :param headers: the kernel's build directory.
    :returns: modules that cannot be built, and the first error of each.
    :raises KbuildError: the core is one of them, or make itself fails.
    """
    end = time.monotonic() + BUILD_LIMIT_S
    failures: dict[str, str] = {}
    for _ in range(MAX_RUNS):
        command = ["make", "-C", str(modules), "-k", f"KDIR={headers.absolute()}"]
        if failures:
            command.append(f"VSP_WITHOUT={' '.join(failures)}")
        status, said = _run_until(command, end)
        if status == 0:
            return failures
        found = find_failures(said)
        if CORE in found or not found.keys() - failures.keys():
            break
        failures.update(found)
    first = f"{found[CORE]}\n" if CORE in found else ""
    raise KbuildError(f"{' '.join(command)} failed:\n{first}{said[-2000:].strip()}")


def _run_until(command: list[str], end: float) -> tuple[int, str]:
    # One job at a time and in English, so that errors can be attributed.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VSP_ONLY", "VSP_WITHOUT")
    }
    environment["LC_ALL"] = "C"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=max(end - time.monotonic(), 0.0),
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise KbuildError("cannot build probes: no 'make'; install make and gcc") from None
    except subprocess.TimeoutExpired:
        raise KbuildError(f"{' '.join(command)}: not done after {BUILD_LIMIT_S:.0f} s") from None
    return done.returncode, done.stdout


def find_failures(said: str) -> dict[str, str]:
    """Find the modules that could not be built, and the first error of each.

    :param said: the output of make with ``-k``, and with one job at a time.
    """
    failures: dict[str, str] = {}
    complaint = ""  # the first since the object before
    for line in said.splitlines():
        link = _FAILED_LINK.search(line)
        if link is not None:
            failures.setdefault(_module_of(link["path"], linked=True), line.strip())
            continue
        if not complaint and _COMPLAINT.match(line):
            complaint = line.strip()
        failed = _FAILED_OBJECT.search(line)
        if failed is not None:
            failures.setdefault(_module_of(failed["path"]), complaint or line.strip())
            complaint = ""
    return failures


def _module_of(path: str, *, linked: bool = False) -> str:
    """Name the module that an object belongs to: a probe's are in a folder of its name."""
    parts = PurePosixPath(path).parts
    if linked or len(parts) < 2 or parts[-2] == "guest":
        return parts[-1]
    return CORE if parts[-2] == "core" else parts[-2]
