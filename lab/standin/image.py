# SPDX-License-Identifier: GPL-2.0-or-later
"""Probe images for a stand-in guest: ELF files with a module's name and vermagic."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["PROBES", "RELEASE", "make_image", "make_store", "make_vermagic"]

RELEASE = "6.1.0-standin"
PROBES = ("send_signal", "out_of_memory")


def make_vermagic(release: str = RELEASE) -> str:
    return f"{release} SMP preempt mod_unload modversions"


def make_image(name: str, magic: str | None = None) -> bytes:
    modinfo = f"license=GPL\0name={name}\0vermagic={magic or make_vermagic()} \0".encode()
    this_module = bytes(24) + name.encode().ljust(56, b"\0") + bytes(48)
    names = b"\0.modinfo\0.gnu.linkonce.this_module\0.shstrtab\0"
    at_module = 64 + len(modinfo)
    at_names = at_module + len(this_module)
    at_table = (at_names + len(names) + 7) & ~7
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 1, 62, 1, 0, 0, at_table, 0, 64, 0, 0, 64, 4, 3
    )
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 2, 0, 64, len(modinfo), 0, 0, 1, 0),
        (names.index(b".gnu"), 1, 3, 0, at_module, len(this_module), 0, 0, 1, 0),
        (names.index(b".shstrtab"), 3, 0, 0, at_names, len(names), 0, 0, 1, 0),
    ]
    body = (header + modinfo + this_module + names).ljust(at_table, b"\0")
    return body + b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)


def make_store(root: Path, release: str = RELEASE) -> None:
    directory = root / release
    directory.mkdir(parents=True, exist_ok=True)
    for name in PROBES:
        (directory / f"{name}.ko").write_bytes(make_image(name, make_vermagic(release)))
