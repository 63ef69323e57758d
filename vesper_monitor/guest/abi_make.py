# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates abi_layout.py from ``probe_modules/include/vesper_abi.h``.

    python3 -m vesper_monitor.guest.abi_make probe_modules/include/vesper_abi.h \\
        > vesper_monitor/guest/abi_layout.py

The header is written for this: a declaration that cannot be read is an error.
tests/unit/guest/test_abi.py compares the file with the current result, and with
the layout that a C compiler gives the header.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["make_layout"]

_HEAD = '''\
# SPDX-License-Identifier: GPL-2.0-or-later
"""Made of vesper_abi.h by vesper_monitor/guest/abi_make.py; not to be edited.

Import these from :mod:`vesper_monitor.guest.abi`.
"""

from __future__ import annotations

import ctypes
import enum
from typing import ClassVar, TypeAlias

#: A field may be called bytes.
_Text: TypeAlias = bytes
'''
_INTEGERS = {"u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64"}
#: Names in Python that differ from those in C not only in style.
_NAMES = {"vsp_event": "EventType"}

_DEFINE = re.compile(r"^#define[ \t]+VSP_(\w+)[ \t]+(.+?)[ \t]*$", re.M)
_BLOCK = re.compile(r"\b(enum|struct)\s+(\w+)\s*\{(.*?)\}\s*;", re.S)
_FIELD = re.compile(r"(?:__(?P<integer>\w+)|(?P<char>char)|struct\s+(?P<struct>\w+))\s+"
                    r"(?P<name>\w+)(?P<dimensions>(?:\[\w+\])*)")  # fmt: skip
_ENUMERATOR = re.compile(r"\b(VSP_\w+)\s*=\s*(\d+)")


def make_layout(header: str) -> str:
    """Return the text of abi_layout.py.

    :param header: the text of vesper_abi.h.
    :raises ValueError: a declaration cannot be read; the text is the declaration.
    """
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.S)
    lines = [_HEAD]
    for name, value in _DEFINE.findall(text):
        bare = value[1:-1] if value.startswith("(") else value
        if not re.fullmatch(r"0x[0-9a-f]+|\d+|1 << \d+", bare):
            raise ValueError(f"#define VSP_{name} {value}")
        lines.append(f"{name} = {bare}")
    for kind, name, body in _BLOCK.findall(text):
        lines += ["", "", *(_make_enum(name, body) if kind == "enum" else _make_struct(name, body))]
    return "\n".join(lines) + "\n"


def _python_name(name: str) -> str:
    words = name.removeprefix("vsp_").split("_")
    return _NAMES.get(name, "".join(word.capitalize() for word in words))


def _make_enum(name: str, body: str) -> list[str]:
    found = _ENUMERATOR.findall(body)
    if not found or len(found) != len([part for part in body.split(",") if part.strip()]):
        raise ValueError(f"enum {name}: each value has to be given")
    # The common prefix, up to the last word: VSP_NET_ of VSP_NET_UP.
    first, last = min(found)[0], max(found)[0]
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    prefix = first[: first.rindex("_", 0, same) + 1]
    return [
        f"class {_python_name(name)}(enum.IntEnum):",
        f'    """enum {name}"""',
        "",
        *(f"    {word.removeprefix(prefix)} = {value}" for word, value in found),
    ]


def _make_struct(name: str, body: str) -> list[str]:
    annotations, fields = [], []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        match = _FIELD.fullmatch(declaration)
        if match is None or (match["integer"] and match["integer"] not in _INTEGERS):
            raise ValueError(f"struct {name}: {declaration}")
        made, said = _field_type(match)
        fields.append(f'        ("{match["name"]}", {made}),')
        if not match["name"].startswith("reserved"):
            annotations.append(f"    {match['name']}: {said}")
    return [
        f"class {_python_name(name)}(ctypes.LittleEndianStructure):",
        f'    c_name: ClassVar[str] = "{name}"',
        *annotations,
        "    _fields_ = [",
        *fields,
        "    ]",
    ]


def _field_type(match: re.Match[str]) -> tuple[str, str]:
    """Return the ctypes type of a field, and the Python type of its value."""
    dimensions = [word.removeprefix("VSP_") for word in re.findall(r"\w+", match["dimensions"])]
    if match["char"]:
        made, said = "ctypes.c_char", "_Text"
        made += f" * {dimensions.pop()}"  # fails for a single one: there is none
    elif match["struct"]:
        made = said = _python_name(match["struct"])
    else:
        integer = match["integer"]
        made = f"ctypes.c_{'u' if integer[0] == 'u' else ''}int{integer[1:]}"
        said = "int"
    for i, size in enumerate(reversed(dimensions)):
        said = f"ctypes.Array[{made if said == 'int' else said}]"
        made = f"{made} * {size}" if not i else f"({made}) * {size}"
    return made, said


def main(arguments: list[str]) -> int:
    """Print the text of abi_layout.py."""
    if len(arguments) != 1:
        print("usage: python3 -m vesper_monitor.guest.abi_make HEADER", file=sys.stderr)
        return 2
    print(make_layout(Path(arguments[0]).read_text(encoding="ascii")), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
