# SPDX-License-Identifier: GPL-2.0-or-later
"""States and CPU time of domains, as ``xl list`` and ``xl vcpu-list`` have them.

The hypervisor's own interface (domctl) changes with each release; xl's output
has been stable for a decade. It takes some 20 ms.
"""

from __future__ import annotations

import asyncio
import re

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    Cause,
    CpuUse,
    DomainReport,
    TransportError,
    VcpuState,
    VcpuUse,
)
from vesper_monitor.hypervisor.xl_list import parse_flags, parse_rows
from vesper_monitor.util import async_subprocess

__all__ = ["LIST_TIMEOUT_S", "DomainList", "parse_domain_list", "parse_vcpu_list"]

#: s
LIST_TIMEOUT_S = 15.0


#: By the flag that says why a domain has shut down, as of xl_list.
_CAUSE_BY_FLAG = {
    "-": (Cause.ASKED, "power-off"),
    "r": (Cause.REBOOT, "it reboots"),
    "S": (Cause.REBOOT, "it resets itself for another kernel (kexec)"),
    "s": (Cause.ASKED, "it is being saved or migrated"),
    "c": (Cause.FAILURE, ""),
    "w": (Cause.FAILURE, "its watchdog has expired"),
}


PAUSED_BY_TOOLSTACK = (
    "by Xen's toolstack (it is being built, saved or destroyed, or by hand: xl pause)"
)


_ListTask = asyncio.Task[dict[int, DomainReport]]


class DomainList:
    """``xl list``, run once for all who ask before it begins.

    A run that has begun may have passed a domain before it changed: who asks
    meanwhile gets the next one, and there are never two at once.
    """

    def __init__(self) -> None:
        self._next: _ListTask | None = None
        self._present: _ListTask | None = None

    async def list_reports(self) -> dict[int, DomainReport]:
        """Return the state of all domains, by domid.

        :raises TransportError:
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run_xl_list(self._present))
            # Whoever waits for it has its error; they may all have gone.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _run_xl_list(self, before: _ListTask | None) -> dict[int, DomainReport]:
        if before is not None:
            await asyncio.wait({before})
        self._present, self._next = self._next, None
        return parse_domain_list(await _run_xl_command("list"))

    async def cpu_use(self, domid: int) -> CpuUse:
        """Return the CPU time of a domain's virtual CPUs, and its state.

        The state is asked for after the CPU time: what ran until then was not paused.

        :raises TransportError: also if there is no such domain.
        """
        vcpus = parse_vcpu_list(await _run_xl_command("vcpu-list", str(domid)), domid)
        report = (await self.list_reports()).get(domid)
        return CpuUse(report.state if report is not None else DomainState.GONE, vcpus)


async def _run_xl_command(*command: str) -> str:
    name = f"xl {command[0]}"
    try:
        code, output, errors = await async_subprocess.run_command(
            "xl", *command, limit=LIST_TIMEOUT_S
        )
    except TimeoutError:
        raise TransportError(
            f"{name}: no answer within {LIST_TIMEOUT_S:.0f} s; Xen's toolstack hangs"
        ) from None
    except OSError as error:
        raise TransportError(f"{name}: {error}; is xen-utils installed?") from None
    if code != 0:
        raise TransportError(f"{name}: exit status {code}: {errors[-200:]}")
    return output


def parse_domain_list(text: str) -> dict[int, DomainReport]:
    """:raises TransportError: this is no such list."""
    try:
        domains, letters = parse_rows(text), parse_flags(text)
    except ValueError as error:
        raise TransportError(str(error)) from None
    return {
        int(domid): _make_report(state, letters[domid])
        for _, domid, state in domains
        if domid.isdecimal()
    }


def _make_report(state: DomainState, letters: str) -> DomainReport:
    if state is DomainState.PAUSED and letters[2] == "p":
        # libxl does so while it builds a domain and when it destroys one, and does not
        # say so; for longer only somebody who has run xl pause.
        return DomainReport(state, Cause.LIKELY, PAUSED_BY_TOOLSTACK)
    if state in (DomainState.PAUSED, DomainState.SHUTDOWN, DomainState.CRASHED):
        return DomainReport(state, *_CAUSE_BY_FLAG.get(letters[4], (Cause.UNKNOWN, "")))
    return DomainReport(state)


#: Name (may hold blanks), id, VCPU, CPU, state, CPU time in s, affinity
#: (print_vcpuinfo(), tools/xl/xl_vcpu.c, Xen 4.17).
_VCPU_LINE = re.compile(r"^.*?\s(\d+)\s+(\d+)\s+(?:\d+|-)\s+([r-][b-][p-])\s+(\d+\.\d+)\s")


def parse_vcpu_list(text: str, domid: int) -> tuple[VcpuUse, ...]:
    """The virtual CPUs of one domain. :raises TransportError: this is no such list."""
    found = [_VCPU_LINE.match(line) for line in text.splitlines()]
    vcpus = tuple(
        VcpuUse(int(match[2]), float(match[4]), _parse_vcpu_flags(match[3]))
        for match in found
        if match is not None and int(match[1]) == domid
    )
    if not vcpus:
        raise TransportError(f"xl vcpu-list: nothing about domain {domid}: {text[:120]!r}")
    return vcpus


def _parse_vcpu_flags(flags: str) -> VcpuState:
    """Flags as in xl(1)."""
    if flags[2] == "p":
        return VcpuState.OFFLINE
    if flags[0] == "r":
        return VcpuState.RUNNING
    return VcpuState.BLOCKED if flags[1] == "b" else VcpuState.RUNNABLE
