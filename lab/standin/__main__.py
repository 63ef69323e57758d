# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab.standin``; see the package's docstring."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from pathlib import Path

from lab.standin.guest import StandinGuest
from lab.standin.image import RELEASE, make_store
from lab.standin.registry import DomainDirectory


async def _run_stand_in_guest(name: str, cmdline: str) -> None:
    await StandinGuest(name, cmdline).run_until_ended()


def _send_to_guest(name: str, words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(DomainDirectory(name).control))
        sock.sendall(" ".join(words).encode() + b"\n")
        answer = sock.makefile().readline().strip()
    print(answer or "gone")
    return 1 if answer.startswith("error") else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m lab.standin")
    commands = parser.add_subparsers(dest="command", required=True)
    guest = commands.add_parser("guest", help="be a guest")
    guest.add_argument("name")
    guest.add_argument("--cmdline", default="")
    tell = commands.add_parser("tell", help="tell a guest (see _obey in guest.py)")
    tell.add_argument("name")
    tell.add_argument("words", nargs="+")
    images = commands.add_parser("images", help="make probe images for stand-in guests")
    images.add_argument("root", type=Path)
    images.add_argument("--release", default=RELEASE)
    arguments = parser.parse_args()
    if arguments.command == "guest":
        asyncio.run(_run_stand_in_guest(arguments.name, arguments.cmdline))
    elif arguments.command == "tell":
        return _send_to_guest(arguments.name, arguments.words)
    else:
        make_store(arguments.root, arguments.release)
    return 0


if __name__ == "__main__":
    sys.exit(main())
