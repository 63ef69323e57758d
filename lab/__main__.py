# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab``: the labs' command line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from lab.images.store import BuildError

EPILOG = """\
Images are built from Debian packages on first use (a few minutes) and kept in
/var/cache/vesper-lab (VESPER_LAB_CACHE). Run as root.
"""

#: Modules with a function ``add_commands(subparsers)``.  Its parsers set ``command`` to a
#: function that runs them: ``(arguments) -> exit status``.
LABS = ("lab.xen.cli", "lab.kvm.cli", "lab.cluster.cli")


def build_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python3 -m lab",
        description="Emulated clusters with real hypervisors: to look around, for demo and tests.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = top.add_subparsers(metavar="LAB", required=True)
    for name in LABS:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("lab."):
                raise
            continue
        module.add_commands(subparsers)
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if os.geteuid() != 0:
        print("lab: needs root (network, mounts, images)", file=sys.stderr)
        return 1
    try:
        status: int = arguments.command(arguments)
    except BuildError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
