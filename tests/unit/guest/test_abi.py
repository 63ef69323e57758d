# SPDX-License-Identifier: GPL-2.0-or-later
"""vesper_monitor/guest/abi.py against the compiled header, both ways."""

from __future__ import annotations

import ctypes
import enum
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vesper_monitor.guest import abi, abi_make

HEADER = Path(__file__).parents[3] / "probe_modules/include/vesper_abi.h"

STRUCTS: dict[str, type[ctypes.Structure]] = {
    str(vars(value)["c_name"]): value
    for value in vars(abi).values()
    if isinstance(value, type) and issubclass(value, ctypes.Structure) and "c_name" in vars(value)
}
#: C enum → Python's, whose docstring names it
ENUMS: dict[str, type[enum.IntEnum]] = {
    (value.__doc__ or "").removeprefix("enum "): value
    for value in vars(abi).values()
    if isinstance(value, type) and issubclass(value, enum.IntEnum)
}


def header_text() -> str:
    return re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)


def header_structs() -> dict[str, list[str]]:
    """Name → fields, as written. Fails on a declaration that it cannot read."""
    found = {}
    for name, body in re.findall(r"\bstruct\s+(\w+)\s*\{(.*?)\}\s*;", header_text(), flags=re.S):
        fields = []
        for declaration in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"(?:struct\s+)?\w+\s+(\w+)(?:\[\w+\])*", declaration)
            assert match, f"struct {name}: cannot read {declaration!r}"
            fields.append(match[1])
        found[name] = fields
    return found


def header_constants() -> set[str]:
    names = set(re.findall(r"^#define\s+(\w+)[ \t]+\S", header_text(), flags=re.M))
    return names - {"VESPER_ABI_H"}


def header_enums() -> dict[str, list[str]]:
    found = re.findall(r"\benum\s+(\w+)\s*\{(.*?)\}", header_text(), flags=re.S)
    return {name: re.findall(r"\b(VSP_\w+)\s*=", body) for name, body in found}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the C compiler makes of the header."""
    lines = []
    for name, fields in header_structs().items():
        lines.append(f'E("{name}", sizeof(struct {name}))')
        for field in fields:
            lines.append(f'E("{name}.{field}", offsetof(struct {name}, {field}))')
            lines.append(f'E("{name}.{field}#", sizeof(((struct {name} *)0)->{field}))')
    for constant in header_constants() | {n for names in header_enums().values() for n in names}:
        lines.append(f'E("{constant}", {constant})')
    source = (
        '#include <stddef.h>\n#include <stdio.h>\n#include "vesper_abi.h"\n'
        '#define E(name, value) printf(",\\"%s\\": %lld\\n", name, (long long)(value));\n'
        'int main(void) { printf("{\\"\\": 0"); ' + "\n".join(lines) + ' printf("}"); return 0; }'
    )
    directory = tmp_path_factory.mktemp("abi")
    (directory / "abi.c").write_text(source)
    program = directory / "abi"
    subprocess.run(
        ["gcc", "-Wall", "-Werror", "-Wpadded", f"-I{HEADER.parent}", "-o", program,
         directory / "abi.c"],
        check=True,
        timeout=60,
    )  # fmt: skip
    output = subprocess.run([program], check=True, capture_output=True, timeout=10).stdout
    values: dict[str, Any] = json.loads(output)
    return values


def test_layout_is_made_of_the_header() -> None:
    made = abi_make.make_layout(HEADER.read_text())
    assert Path(abi_make.__file__).with_name("abi_layout.py").read_text() == made, (
        "see vesper_monitor/guest/abi_make.py"
    )


@pytest.mark.parametrize(
    "declaration",
    ["struct vsp_x { int a; };", "struct vsp_x { __u24 a; };", "enum vsp_x { VSP_X_A };",
     "#define VSP_X sizeof(int)", "struct vsp_x { __u32 a, b; };"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(declaration: str) -> None:
    with pytest.raises(ValueError, match=r"vsp_x|VSP_X"):
        abi_make.make_layout(declaration)


def test_python_has_every_struct_and_no_other() -> None:
    assert set(STRUCTS) == set(header_structs())
    assert len(STRUCTS) > 10


@pytest.mark.parametrize("name", sorted(header_structs()))
def test_each_struct_has_the_layout_of_the_header(compiled: dict[str, Any], name: str) -> None:
    struct = STRUCTS[name]
    assert [field[0] for field in struct._fields_] == header_structs()[name]
    assert ctypes.sizeof(struct) == compiled[name]
    for field in header_structs()[name]:
        descriptor = getattr(struct, field)
        assert descriptor.offset == compiled[f"{name}.{field}"], field
        assert descriptor.size == compiled[f"{name}.{field}#"], field


def test_integers_have_the_same_sign() -> None:
    """A size does not tell an ``__s32`` from a ``__u32``."""
    text = header_text()
    for name, body in re.findall(r"\bstruct\s+(\w+)\s*\{(.*?)\}\s*;", text, flags=re.S):
        declared = dict(STRUCTS[name]._fields_)  # type: ignore[arg-type]
        for kind, field in re.findall(r"__([su](?:8|16|32|64))\s+(\w+)\s*;", body):
            expected = getattr(ctypes, f"c_{'u' if kind[0] == 'u' else ''}int{kind[1:]}")
            assert declared[field] is expected, f"{name}.{field}"


def test_each_constant_has_the_value_of_the_header(compiled: dict[str, Any]) -> None:
    names = header_constants()
    assert len(names) > 15
    for name in names:
        assert getattr(abi, name.removeprefix("VSP_")) == compiled[name], name
    python = {
        f"VSP_{name}" for name, value in vars(abi).items() if isinstance(value, int)
        and name.isupper() and not isinstance(value, enum.Enum)
    }  # fmt: skip
    assert python == names


def test_each_enum_has_the_values_of_the_header(compiled: dict[str, Any]) -> None:
    assert set(ENUMS) == set(header_enums())
    for name, python in ENUMS.items():
        c_names = header_enums()[name]
        prefix = c_names[0].removesuffix(next(iter(python)).name)
        assert prefix.endswith("_")
        assert {f"{prefix}{item.name}": item.value for item in python} == {
            c_name: compiled[c_name] for c_name in c_names
        }
