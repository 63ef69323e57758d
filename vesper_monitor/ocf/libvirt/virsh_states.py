# SPDX-License-Identifier: GPL-2.0-or-later
"""Which domains of libvirt's there are, and in which state.

A domain counts as gone only where libvirt has listed all domains and it was
not among them; or, while libvirtd hangs or is restarted, where none of its QEMU
processes is there.
"""

from __future__ import annotations

import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.libvirt.virsh_call import Options, VirshCall
from vesper_monitor.ocf.toolstack import (
    ToolstackError,
    ToolstackHangsError,
    ToolstackMissingError,
)

__all__ = ["LOOK_LIMIT_S", "VirshStates", "parse_stats"]

#: Seconds for a look by libvirt, before the processes are looked at instead.
LOOK_LIMIT_S = 5.0
#: Seconds for libvirt's own destroy (it waits 15 s for QEMU's end itself).
DESTROY_LIMIT_S = 20.0

#: virDomainState (libvirt-domain.h, 9.0).
STATES = {
    0: DomainState.PAUSED,  # no state: it arrives by migration
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,  # blocked
    3: DomainState.PAUSED,
    4: DomainState.RUNNING,  # asked to shut down
    5: DomainState.GONE,  # shut off
    6: DomainState.CRASHED,
    7: DomainState.PAUSED,  # suspended by the guest itself
}
#: virDomainPausedReason: pauses that do not end by themselves.
STUCK = {
    5: "paused after an I/O error of a disk",
    6: "paused by its watchdog",
    10: "paused after a panic of the guest",
    13: "paused after a migration that failed",
}
#: virDomainPausedReason: it is on its way here (migration, starting up, post-copy).
ARRIVING = (2, 11, 12)
#: virDomainPausedReason: what runs no more, and is not yet destroyed.
SHUT_DOWN = 8
PANICKED = 1  # virDomainCrashedReason


def parse_stats(text: str) -> dict[str, tuple[int, int]]:
    """Return state and reason of each domain by name, as ``virsh domstats --state`` has them.

    :raises ToolstackError: it is not understood, to its last line.
    """
    import re  # costs some ms; a monitor that has vesperd does without

    # A name may hold quotes and lines' ends, but not what stands behind it.
    record = re.compile(
        r"Domain: '((?:(?!\n  state\.).)*)'\n  state\.state=(\d+)\n  state\.reason=(\d+)\n+", re.S
    )
    found: dict[str, tuple[int, int]] = {}
    position = 0
    while position < len(text):
        if (match := record.match(text, position)) is None:
            rest = text[position : position + 120]
            raise ToolstackError(f"virsh domstats: not understood: {rest!r}")
        found[match[1]] = int(match[2]), int(match[3])
        position = match.end()
    return found


class VirshStates(VirshCall):
    """The states of all domains, and the end of one."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        #: names of domains that libvirt knows and that do not run
        self.defined: set[str] = set()
        #: names, at the last look
        self._arriving: set[str] = set()
        #: why a domain runs no more, by its name
        self._why: dict[str, str] = {}
        #: libvirtd did not answer the last look
        self._away = False
        #: names of domains whose power button was pressed by QEMU's monitor
        self._pressed: set[str] = set()

    def list_states(self, limit: float) -> dict[str, DomainState]:
        if self.has_hung_lately():
            return self._list_by_process(ToolstackError("libvirtd does not answer"))
        try:
            stats = parse_stats(self.run_virsh(min(limit, LOOK_LIMIT_S), "domstats", "--state"))
        except ToolstackHangsError as error:
            self.note_hang()
            return self._list_by_process(error)
        except ToolstackError as error:
            # Not by what the error says: that may be in any language.
            if self.driver_name() == "qemu" or isinstance(error, ToolstackMissingError):
                return self._list_by_process(error)
            from vesper_monitor.ocf.libvirt.virsh_list import list_states

            stats = list_states(self, limit)
        return self._parse_states(stats)

    def _parse_states(self, stats: dict[str, tuple[int, int]]) -> dict[str, DomainState]:
        found: dict[str, DomainState] = {}
        self._away = False
        self._why.clear()
        self._arriving.clear()
        self.defined.clear()
        for name, (number, reason) in stats.items():
            state = STATES.get(number, DomainState.PAUSED)
            if state is DomainState.GONE:
                self.defined.add(name)
                continue
            if number == 3 and reason in STUCK:
                state = DomainState.CRASHED
                self._why[name] = STUCK[reason]
            elif number == 3 and reason == SHUT_DOWN:
                state = DomainState.SHUTDOWN
            elif number == 6 and reason == PANICKED:
                self._why[name] = "crashed (panic of the guest)"
            if number == 0 or (number == 3 and reason in ARRIVING):
                self._arriving.add(name)
            found[name] = state
        return found

    def _list_by_process(self, error: ToolstackError) -> dict[str, DomainState]:
        """:raises ToolstackError: as given: the processes do not tell."""
        if not self.is_local():
            raise error
        from vesper_monitor.hypervisor import qemu_process

        try:
            running = qemu_process.list_running()
        except FileNotFoundError:
            if isinstance(error, ToolstackMissingError):
                return {}  # no libvirt here, so none of its domains
            raise error from None
        except OSError as trouble:
            raise ToolstackError(f"{error}; and QEMU's processes: {trouble}") from error
        if not self._away:
            log_line(f"{error}; looking at QEMU's processes instead")
        self._away = True
        self._why.clear()
        self.defined.clear()
        return {name: self._read_by_monitor(name) for name in running}

    def _read_by_monitor(self, name: str) -> DomainState:
        """Of one whose QEMU runs."""
        if name in self._pressed:
            from vesper_monitor.ocf.libvirt import qemu

            if qemu.has_shut_down(name):
                return DomainState.SHUTDOWN
        return DomainState.RUNNING

    def explain_end(self, name: str) -> str:
        return self._why.get(name, "")

    def is_arriving(self, name: str) -> bool:
        return name in self._arriving

    def destroy_domain(self, name: str, limit: float) -> None:
        end = time.monotonic() + limit
        trouble = ToolstackError("libvirtd does not answer")
        if not self.has_hung_lately():
            try:
                self.do_to(name, min(limit / 2, DESTROY_LIMIT_S), "destroy")
                return
            except ToolstackError as error:
                trouble = error
        if not self.is_local():
            raise trouble
        from vesper_monitor.ocf.libvirt import qemu

        qemu.kill_process(name, end, trouble)
