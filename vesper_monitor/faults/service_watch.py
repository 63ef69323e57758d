# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether each service of an activation has a main process: the state machine.

An end that no rule calls a fault (``systemctl stop``, a clean exit, a process that renamed
itself) must not go unseen.  So the guest's core is asked which services have a main
process.  A service that stays away makes the monitor *degraded*, never failed.

Pure: it knows no loop and no clock; times are seconds of any monotonic clock.
vesper_monitor/daemon/services.py drives it.  Of each service::

    UNKNOWN --an answer--> PRESENT <--has lived for STEADY_S-- MISSING
       ^                      \\________an answer without it______^
       +--another boot of the guest--

Only a service that an answer of the guest has shown missing is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vesper_monitor.guest.control.processes import MainProcess, Processes
from vesper_monitor.guest.event import Event
from vesper_monitor.rules.fields import comm_of, is_believed, is_main, process_comm

__all__ = ["BACK_S", "BOOT_S", "ServiceWatch"]

#: s that a service may be away, as while it is restarted.
BACK_S = 60.0
#: s that a guest has to start its services after its boot.
BOOT_S = 300.0
#: s that a service may be away while the guest shuts down.
SHUTDOWN_S = 300.0
#: s that a new process must have lived for its service to be back.
STEADY_S = 5.0
#: s between two looks: nothing is missing; something is; the guest did not answer.
LOOK_S = 60.0
LOOK_MISSING_S = 10.0
LOOK_AGAIN_S = 10.0
#: s from an event that ends a service to the next look.
LOOK_SOON_S = 2.0

#: What systemd keeps running until it shuts the guest down.
COMPANIONS = ("systemd-logind", "agetty")

#: Ends a process in an orderly way: also told of one that handles it.
_ENDING_SIGNALS = ("SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT")


@dataclass(frozen=True)
class _End:
    """What was seen of a main process's end."""

    at: float
    pid: int
    how: str  #: "was ended by systemd"
    is_systems: bool = False  #: it is known that no user had started it


@dataclass
class _Service:
    name: str
    present_at: float | None = None  #: last answer that had it; in this boot
    pid: int = 0  #: at that moment
    #: at least since when it has no process; None: it has one, or nothing is known
    missing_since: float | None = None
    #: uptime of the guest's kernel when an answer first had it missing
    missing_uptime: float = 0.0
    is_said: bool = False  #: it has had none for too long
    is_believed: bool = False  #: it was a process that no user had logged in to start
    end: _End | None = None
    users_pid: int = 0  #: of a user's process of its name, which is not it

    @property
    def was_there(self) -> bool:
        """In this boot of the guest."""
        return self.present_at is not None or self.end is not None


@dataclass
class ServiceWatch:
    """The services of one activation.

    :param vm: its name.
    """

    vm: str
    _services: dict[str, _Service] = field(default_factory=dict)
    _boot_id: int | None = None
    _is_heard: bool = False
    _is_askable: bool = True  #: as far as is known: the core is not too old
    _next_look: float = 0.0
    _uptime: float = 0.0  #: of the guest's kernel, at its last answer
    _companions: frozenset[str] = frozenset()  #: that ran when no service was missing
    _shuts_down: bool = False

    # ------------------------------------------------------------ what happens

    def set_services(self, names: Collection[str], now: float) -> None:
        """Set the activation's services. Idempotent."""
        if list(self._services) != list(dict.fromkeys(names)):
            self._services = {name: self._services.get(name) or _Service(name) for name in names}
            self._next_look = now

    def note_heard(self, boot_id: int, now: float) -> None:
        """Note that the guest's core can be asked. :param boot_id: of the core."""
        if self._boot_id not in (None, boot_id):
            self._forget_boot()
        if not self._is_heard or self._boot_id != boot_id:
            self._is_askable = True
            self._next_look = now
        self._boot_id, self._is_heard = boot_id, True

    def note_unheard(self) -> None:
        """Note that the guest's core cannot be asked; see :meth:`find_missing_service`."""
        self._is_heard = False

    def note_event(self, event: Event, now: float) -> None:
        """Note an event of the guest. :param now: when it was."""
        if event.event not in _END_OF:
            return
        fields = event.fields
        if not is_main(fields, self._services) or not is_believed(fields):
            return
        how = _END_OF[event.event](fields)
        if how is None:
            return
        pid = fields.get("tgid", fields.get("pid"))
        end = _End(now, pid if isinstance(pid, int) else 0, how, _is_known(fields))
        for service in self._services.values():
            if process_comm(fields) == comm_of(service.name) and (
                _is_certain(fields) or service.pid in (0, end.pid)
            ):
                service.end = _later_end(service, end, event.event == "process_exit")
                self._next_look = min(self._next_look, now + LOOK_SOON_S)

    def note_answer(self, answer: Processes | None, now: float) -> None:
        """Note the answer of the guest's core. None: it is too old to be asked."""
        if answer is None:
            self._is_askable = False
            return
        self._uptime = answer.uptime_s
        for service in self._services.values():
            end = service.end
            if end is not None and end.is_systems and not self._is_of_earlier_boot(end, now):
                service.is_believed = True
        found = {
            service.name: self._find_main_process(service, answer)
            for service in self._services.values()
        }
        is_whole = None not in found.values()
        running = frozenset(name for name in COMPANIONS if name in answer.found)
        if is_whole:
            self._companions = running
        self._shuts_down = bool(not is_whole and self._companions and not running)
        for service in self._services.values():
            self._update_service(service, found[service.name], now)
        is_ending = any(service.end is not None for service in self._services.values())
        self._next_look = now + (LOOK_S if is_whole and not is_ending else LOOK_MISSING_S)

    def note_no_answer(self, now: float) -> None:
        """Note that the guest's core gave no answer that can be understood."""
        self._next_look = now + LOOK_AGAIN_S

    # ------------------------------------------------------------ what follows

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names to ask the guest for."""
        return (*self._services, *COMPANIONS)

    def is_due(self, now: float) -> bool:
        """Tell whether to ask the guest now."""
        can_ask = bool(self._services) and self._is_heard and self._is_askable
        return can_ask and now >= self._next_look

    def find_missing_service(self, now: float) -> str | None:
        """Say which service lacks its process for too long; None: none is known to.

        A guest that is not heard is degraded for that reason.
        """
        if self._is_heard:
            for service in self._services.values():
                if service.is_said and service.missing_since is not None:
                    text = self._describe_missing(service, now - service.missing_since)
                    if service.users_pid:
                        text += f" ({service.name}[{service.users_pid}] is a login's)"
                    return text
        return None

    # ------------------------------------------------------------ inside

    @staticmethod
    def _find_main_process(service: _Service, answer: Processes) -> MainProcess | None:
        found = answer.found.get(service.name)
        # Once it was the system's own, a user's process of its name is not it.
        is_other = found is not None and service.is_believed and not found.is_believed
        service.users_pid = found.pid if found is not None and is_other else 0
        return None if is_other else found

    def _update_service(self, service: _Service, found: MainProcess | None, now: float) -> None:
        if found is None:
            if service.missing_since is None:
                self._begin_missing(service, now)
            service.is_said = self._is_too_long(service, now)
        elif service.missing_since is None or found.age_s >= STEADY_S:
            service.present_at, service.pid = now, found.pid
            service.missing_since, service.is_said = None, False
            service.is_believed = service.is_believed or found.is_believed
            # A signal may have been sent to it that it is still about to obey.
            if service.end is not None and not _may_obey(service.end, found.pid, now):
                service.end = None

    def _begin_missing(self, service: _Service, now: float) -> None:
        if service.end is not None and self._is_of_earlier_boot(service.end, now):
            service.end = None
        since = service.end.at if service.end is not None else now
        service.missing_since = max(since, service.present_at or since)
        service.missing_uptime = self._uptime

    def _is_of_earlier_boot(self, end: _End, now: float) -> bool:
        return end.at < now - self._uptime

    def _is_too_long(self, service: _Service, now: float) -> bool:
        if service.missing_since is None:
            return False
        # What has ended so early may have been a check of its configuration.
        if service.present_at is None and self._uptime < BOOT_S:
            return False
        patience = SHUTDOWN_S if self._shuts_down and service.was_there else BACK_S
        # By the guest's clock, too: it may have been paused or suspended.
        ran = self._uptime - service.missing_uptime + LOOK_MISSING_S
        return now - service.missing_since >= patience and ran >= patience

    def _describe_missing(self, service: _Service, away: float) -> str:
        name, ago = service.name, _format_duration(away)
        if service.end is not None:
            return f"{self.vm}: {name} {service.end.how} {ago} ago and is not back"
        if service.was_there:
            return f"{self.vm}: no process is named {name} any more, for {ago}"
        return (
            f"{self.vm}: services: no process is named {name}, "
            f"{_format_duration(self._uptime)} after the boot"
        )

    def _forget_boot(self) -> None:
        """Forget all about an earlier boot of the guest."""
        self._services = {name: _Service(name) for name in self._services}
        self._companions, self._shuts_down = frozenset(), False


def _is_certain(fields: Mapping[str, Any]) -> bool:
    """Tell whether a record shows the end of a process, and whose it is.

    A signal that does not kill shows neither, unless init has sent it.
    """
    return fields.get("fatal", True) is True or fields.get("sender_pid") == 1


def _is_known(fields: Mapping[str, Any]) -> bool:
    """Tell whether a record shows whose its process is."""
    return fields.get("login_uid") is not None or fields.get("cgroup") is not None


def _later_end(service: _Service, end: _End, is_exit: bool) -> _End:
    """Return the end that counts: of the process that was seen, and with its sender."""
    before = service.end
    if before is None or service.pid == end.pid != before.pid:
        return end
    if before.pid == end.pid:
        # Who has ended it says more than how it has ended.
        return replace(end, how=before.how) if is_exit else end
    return before if service.pid == before.pid else end


def _may_obey(end: _End, pid: int, now: float) -> bool:
    return end.pid == pid and now - end.at < SHUTDOWN_S


def _by_signal(fields: Mapping[str, Any]) -> str | None:
    if not fields.get("fatal") and fields.get("signal") not in _ENDING_SIGNALS:
        return None
    if fields.get("from_kernel") or fields.get("in_irq"):
        return f"was ended by {fields.get('signal')} of the kernel"
    if fields.get("sender_pid") == fields.get("tgid"):
        return f"has ended itself by {fields.get('signal')}"
    by = str(fields.get("sender_comm") or "another process")
    pid = fields.get("sender_pid")
    return f"was ended by {by}" + ("" if pid in (0, 1) else f"[{pid}]")


def _by_itself(fields: Mapping[str, Any]) -> str | None:
    if signal := fields.get("signal"):
        return f"was ended by {signal}"
    return f"has ended with status {fields.get('status')}"


def _for_memory(_fields: Mapping[str, Any]) -> str | None:
    return "was ended for lack of memory"


#: Event of a main process → how it was ended; None: it was not.
_END_OF: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "send_signal": _by_signal,
    "process_exit": _by_itself,
    "out_of_memory": _for_memory,
}


def _format_duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
