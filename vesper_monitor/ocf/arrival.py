# SPDX-License-Identifier: GPL-2.0-or-later
"""The target's side of a live migration: which domain was sent here, and its fault.

See :mod:`vesper_monitor.ocf.hand_over` for the way as a whole.
"""

from __future__ import annotations

import time

from vesper_monitor.ocf.carried_fault import (
    CLUSTER_LIMIT_S,
    build_attribute_command,
    change_attribute,
    keep_fault,
    pack_fault,
    unpack_fault,
)
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError, spawn_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.domain_identity import DomainIdentity
    from vesper_monitor.ocf.invocation import OcfInvocation
    from vesper_monitor.ocf.toolstack import Background

__all__ = ["Arrival"]

#: Seconds until the cluster is asked again whether something was sent.
ASK_AGAIN_S = 1.0


class Arrival:
    """What was sent to this node; the cluster is asked while the VM is waited for."""

    def __init__(self, call: OcfInvocation, identity: DomainIdentity) -> None:
        self._call = call
        self._identity = identity
        self._query: Background | None = None
        self._sent: dict[str, Any] = {}
        self._has_attribute = False
        self._asked_at = float("-inf")
        self._ask_cluster()

    def find_domain(self, *, again: bool = False) -> tuple[str, str]:
        """Return name and UUID of the domain that was sent; empty where unknown. Never fails.

        :param again: ask the cluster again, if nothing was sent when it was asked last.
        """
        self._take_answer()
        if again and not self._sent and time.monotonic() - self._asked_at > ASK_AGAIN_S:
            self._ask_cluster()
            self._take_answer()
        name, ident = self._sent.get("vm"), self._sent.get("ident")
        if not isinstance(name, str) or not name or not name.isprintable():
            return "", ""
        return name, ident if isinstance(ident, str) else ""

    def receive_fault(self) -> None:
        """Keep the fault that arrived with the VM, for vesperd. Never fails."""
        name, _ = self.find_domain()
        fault = self._sent.get("fault")
        if name == self._identity.vm and isinstance(fault, dict):
            keep_fault(self._call, pack_fault(fault))

    def remove_from_cluster(self) -> None:
        """Remove the attribute: the fault is kept, or vesperd has it. Never fails."""
        if not self._has_attribute:
            return
        try:
            change_attribute(self._call, self._call.node, "--delete")
        except ToolstackError as error:
            log_line(f"{self._identity.vm}: {error}")

    def close(self) -> None:
        """End the question, if it is not answered. Idempotent."""
        if self._query is not None:
            self._query.close()
            self._query = None

    def _ask_cluster(self) -> None:
        self._asked_at = time.monotonic()
        try:
            command = build_attribute_command(self._call.resource, self._call.node, "--query")
            self._query = spawn_command(command, hint="is Pacemaker installed?")
        except ToolstackMissingError:
            pass  # no cluster: nothing was sent
        except ToolstackError as error:
            self._log_unknown(str(error))

    def _take_answer(self) -> None:
        """Wait for the cluster's answer, if it was asked."""
        if self._query is None:
            return
        limit = self._call.limit_time(CLUSTER_LIMIT_S)
        code, said = self._query.wait_for_exit(limit), self._query.read_output()
        self.close()
        value = ""
        if code is None:
            self._asked_at = float("inf")  # not again
            self._log_unknown(f"attrd_updater did not finish within {limit:.0f} s")
        elif code == 0:
            value = _parse_value(said)
        elif "does not exist" not in said:
            self._log_unknown(f"attrd_updater: exit status {code}: {said.strip()}")
        self._has_attribute = self._has_attribute or bool(value)
        if value:
            try:
                self._sent = unpack_fault(value)
            except ValueError as error:
                self._log_unknown(f"the attribute is not understood: {error}")

    def _log_unknown(self, trouble: str) -> None:
        log_line(f"{self._identity.vm}: unknown what was sent to this node: {trouble}")


def _parse_value(said: str) -> str:
    """Return the value of a line ``name="…" host="…" value="…"``; empty: it has none."""
    for line in said.splitlines():
        _, mark, rest = line.partition('value="')
        if mark:
            value = rest.partition('"')[0]
            return "" if value == "(null)" else value
    return ""
