# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes of a point the module that is sent into the guest.

Its parameters: the format is that of ``probe_modules/probe_point/program.c``.
Its image: a kernel loads no second module of the same name, and one module is
one probe, unloaded by its name; so each point's image gets the point's name.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe, Kind

__all__ = ["IMAGE", "definition_id", "module_parameters", "text_size"]

#: The module that all points are images of.
IMAGE = "probe_point"

_TESTS = {"==": "=", "!=": "!", "<": "<", "<=": "{", ">": ">", ">=": "}", "&": "&"}


def text_size(is_text: Sequence[bool]) -> int:
    """Bytes of each text in a record, its NUL included; 0 if there is none."""
    count = sum(is_text)
    return abi.POINT_TEXT // count // 8 * 8 if count else 0


def module_parameters(point: DynamicProbe) -> str:
    """For the module probe_point."""
    rate = f"max_per_s={point.max_per_s}"
    if point.max_active:
        rate += f" max_active={point.max_active}"
    return f"{_build_program(point)} id={point.id} {rate}"


def definition_id(point: DynamicProbe) -> int:
    """For ``Point.id``."""
    # Not 0, which the module says if it was not told.
    return zlib.crc32(_build_program(point).encode()) or 1


def _build_program(point: DynamicProbe) -> str:
    place = f"at={point.kind.value}:{point.symbol}"
    if point.kind is Kind.FUNCTION and point.offset:
        place += f"+{point.offset}"
    values = ",".join(value.ops for value in point.values)
    tests = ",".join(
        f"{test.value}{_TESTS[test.operator]}"
        + (test.operand.hex() if isinstance(test.operand, bytes) else str(test.operand))
        for test in point.tests
    )
    return " ".join([place, *([f"args={values}"] if values else []),
                     *([f"only={tests}"] if tests else [])])  # fmt: skip
