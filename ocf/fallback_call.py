# SPDX-License-Identifier: GPL-2.0-or-later
"""One call of an agent, for ``fallback_actions.py``; the standard library alone."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

__all__ = ["Call", "UnknownStateError"]

DEFAULT_TIMEOUTS_S = {"start": 60.0, "stop": 90.0, "migrate_to": 120.0, "migrate_from": 120.0}
#: What an operation keeps of its time to end, at most.
MAX_MARGIN_S = 1.0


class UnknownStateError(Exception):
    """Whether the domain runs cannot be told; the text says why."""


class Call:
    """One call of an agent: its parameters, its time, and whose domain it is about."""

    def __init__(self, action: str, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.resource = environ.get("OCF_RESOURCE_INSTANCE") or "default"
        given = (environ.get("OCF_RESKEY_CRM_meta_timeout") or "").strip()
        self.timeout = int(given) / 1000 if given.isdecimal() else 0.0
        self.timeout = self.timeout or DEFAULT_TIMEOUTS_S.get(action, 30.0)
        margin = min(MAX_MARGIN_S, self.timeout / 10)
        self.end = time.monotonic() - _process_age() + self.timeout - margin
        #: the cluster's name of this node
        self.node = environ.get("OCF_RESKEY_CRM_meta_on_node") or os.uname().nodename
        self.recurring = (environ.get("OCF_RESKEY_CRM_meta_interval") or "0").strip() != "0"

    def left(self) -> float:
        """Seconds for outside calls; some for a last one if the time is up."""
        return max(0.5, self.end - time.monotonic())

    def is_over(self) -> bool:
        """Whether there is no time for another look."""
        return self.end - time.monotonic() < 0.5

    def parameter(self, name: str) -> str:
        return self.environ.get(f"OCF_RESKEY_{name}", "").strip()

    def switched_on(self, name: str) -> bool:
        return self.parameter(name).lower() in ("1", "true", "yes", "on", "y", "enabled")

    def state_file(self, kind: str) -> str:
        folder = self.environ.get("HA_RSCTMP") or "/run/resource-agents"
        return f"{folder}/vesper-{self.resource.replace('/', '_')}.{kind}"

    def remembered(self) -> tuple[str, str]:
        """Name and ident of the domain that a start or a probe found last; empty: none."""
        return _read_record(self.state_file("domain"))

    def find_owner(self, name: str) -> str:
        """Return the other resource that a domain belongs to; empty: none."""
        own = self.state_file("domain")
        folder = os.path.dirname(own)
        for entry in sorted(os.listdir(folder) if os.path.isdir(folder) else []):
            path = os.path.join(folder, entry)
            other = entry.startswith("vesper-") and entry.endswith(".domain") and path != own
            if other and _read_record(path)[0] == name:
                return entry.removeprefix("vesper-").removesuffix(".domain")
        return ""

    def forget(self) -> None:
        for kind in ("domain", "first"):
            try:
                os.unlink(self.state_file(kind))
            except OSError:
                pass


def _read_record(path: str) -> tuple[str, str]:
    """See vesper_monitor/ocf/domain_identity.py: lines with name, ident, and more."""
    try:
        with open(path, "rb") as file:
            lines = file.read(4096).decode(errors="surrogateescape").split("\n")
    except OSError:
        return "", ""
    return (lines[0], lines[1]) if len(lines) > 1 else ("", "")


def _process_age() -> float:
    """Seconds since this process was started (proc(5), field 22 of stat)."""
    try:
        with open("/proc/self/stat") as stat:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
