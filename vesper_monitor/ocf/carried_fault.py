# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault that travels with its VM: as a text, in a node attribute, and in a file.

See :mod:`vesper_monitor.ocf.hand_over` for its way from node to node.
"""

from __future__ import annotations

import base64
import json

from vesper_monitor.ocf.fast_common import AGAIN, CARRIED
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError, run_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.invocation import OcfInvocation

__all__ = [
    "build_attribute_command",
    "carried_attribute_name",
    "change_attribute",
    "keep_fault",
    "kept_fault_field",
    "pack_fault",
    "unpack_fault",
]

#: Seconds for the cluster to take an attribute.
CLUSTER_LIMIT_S = 5.0
#: Characters of a packed fault; a longer text is refused.
MAX_PACKED_CHARS = 6000


def carried_attribute_name(resource: str) -> str:
    """Return the name of the node attribute that says what was sent to that node."""
    return f"vesper-carried-{resource}"


def build_attribute_command(resource: str, node: str, *words: str) -> list[str]:
    """Return a command on that attribute, which is private: the CIB does not have it."""
    name = carried_attribute_name(resource)
    return ["attrd_updater", "--private", "--name", name, "--node", node, *words]


def change_attribute(call: OcfInvocation, node: str, *words: str) -> None:
    """Change that attribute of a node.

    :param words: ``--delete``, or ``--update`` and the value.
    :raises ToolstackError: the cluster did not change it in time.
    """
    command = build_attribute_command(call.resource, node, *words)
    code, said = run_command(command, call.limit_time(CLUSTER_LIMIT_S))
    if code != 0:
        raise ToolstackError(f"attrd_updater: exit status {code}: {said.strip()}")


def keep_fault(call: OcfInvocation, packed: str) -> None:
    """Keep a fault in a file until this node's vesperd has taken it."""
    call.remember_text(CARRIED, packed[: MAX_PACKED_CHARS + 1])
    # The question of the last monitor here does not contain it.
    call.remember_text(AGAIN, "")


def kept_fault_field(call: OcfInvocation, vm: str) -> dict[str, Any]:
    """Return the field of a ``start`` or ``wait`` that gives vesperd the fault in that file."""
    packed = call.remembered_text(CARRIED)
    if not packed:
        return {}
    try:
        return {"carried": unpack_fault(packed)}
    except ValueError as error:
        log_line(f"{vm}: the fault that arrived with it is not understood: {error}")
        call.remember_text(CARRIED, "")
        return {}


def pack_fault(fault: dict[str, Any]) -> str:
    """Return a fault as a text that Pacemaker and a shell leave alone: letters, digits, ``-_=``."""
    text = json.dumps(fault, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii")


def unpack_fault(packed: str) -> dict[str, Any]:
    """Return the fault of a text of :func:`pack_fault`.

    :raises ValueError: it is none.
    """
    if len(packed) > MAX_PACKED_CHARS:
        raise ValueError(f"more than {MAX_PACKED_CHARS} characters")
    fault = json.loads(base64.b64decode(packed.encode("ascii"), altchars=b"-_", validate=True))
    if not isinstance(fault, dict):
        raise ValueError("not an object")
    return fault
