# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the module parameters of a dynamic probe.

``probe_modules/probe_point/program.c`` defines their format. All dynamic probes
share one image. A kernel loads no two modules of the same name, and unloads a
module by its name. So the image is renamed to the name of the dynamic probe.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe, Kind

__all__ = ["IMAGE", "definition_id", "module_parameters", "text_size"]

#: The module whose image all dynamic probes share.
IMAGE = "probe_point"

_TESTS = {"==": "=", "!=": "!", "<": "<", "<=": "{", ">": ">", ">=": "}", "&": "&"}


def text_size(is_text: Sequence[bool]) -> int:
    """Return the bytes of each text in a record, with its NUL; 0 if there is none."""
    count = sum(is_text)
    return abi.POINT_TEXT // count // 8 * 8 if count else 0


def module_parameters(probe: DynamicProbe) -> str:
    """Return the parameters for the module probe_point."""
    rate = f"max_per_s={probe.max_per_s}"
    if probe.max_active:
        rate += f" max_active={probe.max_active}"
    return f"{_build_program(probe)} id={probe.id} {rate}"


def definition_id(probe: DynamicProbe) -> int:
    """Return the ID of a definition: :attr:`DynamicProbe.id`."""
    # Not 0: the module records 0 if it got no ID.
    return zlib.crc32(_build_program(probe).encode()) or 1


def _build_program(probe: DynamicProbe) -> str:
    place = f"at={probe.kind.value}:{probe.symbol}"
    if probe.kind is Kind.FUNCTION and probe.offset:
        place += f"+{probe.offset}"
    values = ",".join(value.ops for value in probe.values)
    tests = ",".join(
        f"{test.value}{_TESTS[test.operator]}"
        + (test.operand.hex() if isinstance(test.operand, bytes) else str(test.operand))
        for test in probe.tests
    )
    return " ".join([place, *([f"args={values}"] if values else []),
                     *([f"only={tests}"] if tests else [])])  # fmt: skip
