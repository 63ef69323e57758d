# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt says of a domain, understood: pure functions.

libvirt's words are those of its status files (src/conf/domain_conf.c, libvirt
9.0); its interface has the same as numbers (``virDomainState`` and the reasons
of each, include/libvirt/libvirt-domain.h).  No word, number or combination
makes these functions raise: what is new to them is a state without a cause.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from vesper_monitor.hypervisor.transport import Cause, DomainReport, DomainState, Notice

__all__ = [
    "WATCHDOG_POWEROFF_ACTIONS",
    "Lifecycle",
    "decode_state",
    "describe_disk_errors",
    "describe_io_error",
    "explain_lasting_pause",
    "make_end_report",
    "make_io_error_notice",
    "make_memory_notice",
    "make_report",
    "make_watchdog_notice",
]

#: virDomainState
_DOMAIN_STATES = (
    "nostate", "running", "blocked", "paused", "shutdown", "shutoff", "crashed", "pmsuspended",
)  # fmt: skip
#: virDomainPausedReason, virDomainCrashedReason; the others' do not matter.
_STATE_REASONS: Mapping[str, tuple[str, ...]] = {
    "paused": (
        "unknown", "user", "migration", "save", "dump", "ioerror", "watchdog", "from snapshot",
        "shutdown", "snapshot", "panicked", "starting up", "post-copy", "post-copy failed",
        "api error",
    ),
    "crashed": ("unknown", "panicked"),
}  # fmt: skip

_PAUSE_CAUSES: Mapping[str, tuple[Cause, str]] = {
    "unknown": (Cause.UNKNOWN, "libvirt knows no reason"),
    "user": (Cause.ASKED, "suspended by an operator or a program (virsh suspend)"),
    "migration": (Cause.ASKED, "it is being migrated"),
    "save": (Cause.ASKED, "it is being saved"),
    "dump": (Cause.ASKED, "its memory is being dumped"),
    "ioerror": (Cause.FAILURE, "I/O error"),
    "watchdog": (Cause.FAILURE, "its watchdog has expired"),
    "from snapshot": (Cause.ASKED, "restored so from a snapshot"),
    "shutdown": (Cause.UNKNOWN, "it is being shut down"),
    "snapshot": (Cause.ASKED, "a snapshot is being taken"),
    "starting up": (Cause.ASKED, "it is being started"),
    "post-copy": (Cause.ASKED, "it is being migrated (post-copy)"),
    "post-copy failed": (Cause.FAILURE, "its post-copy migration has failed"),
    "api error": (Cause.UNKNOWN, "libvirt could not let it go on after an operation"),
}

PANIC_TEXT = "its kernel has panicked"


def decode_state(state: int, reason: int) -> tuple[str, str]:
    """libvirt's numbers as its words."""
    word = _DOMAIN_STATES[state] if 0 <= state < len(_DOMAIN_STATES) else str(state)
    reasons = _STATE_REASONS.get(word, ())
    return word, reasons[reason] if 0 <= reason < len(reasons) else "unknown"


def make_report(state: str, reason: str) -> DomainReport:
    """Of a domain whose QEMU is there."""
    if state == "paused" and reason == "panicked":
        state = "crashed"  # found so when libvirtd was started
    if state == "crashed":
        return DomainReport(DomainState.CRASHED, Cause.FAILURE, PANIC_TEXT)
    if state == "paused":
        return DomainReport(DomainState.PAUSED, *_PAUSE_CAUSES.get(reason, (Cause.UNKNOWN, "")))
    if state == "pmsuspended":
        return DomainReport(
            DomainState.PAUSED, Cause.UNKNOWN, "the guest has put itself to sleep",
            says="sleeps (suspend to RAM)",
        )  # fmt: skip
    if state in ("shutdown", "shutoff"):
        # For a moment: QEMU is about to end, or libvirt resets it, as it does
        # for a reboot by the power button.
        return DomainReport(DomainState.PAUSED, Cause.UNKNOWN, "it shuts down", says="shuts down")
    return DomainReport(DomainState.RUNNING)


def describe_io_error(path: str, alias: str, reason: str) -> str:
    """Of an I/O error's event: where, and what."""
    what = {"enospc": "no space left", "eperm": "not permitted"}.get(reason, reason)
    where = path or alias or "a disk"
    return f"{where}: {what}" if what else where


#: virDomainEventIOErrorAction
_IO_ACTIONS = ("it is ignored", "the guest is paused", "the guest is told")


def make_io_error_notice(where: str, action: int) -> Notice:
    """Of itself no failure: a pause is, and a guest that is told lives with it or says so."""
    known = 0 <= action < len(_IO_ACTIONS)
    what = _IO_ACTIONS[action] if known else f"action {action}"
    return Notice("io_error", f"I/O error ({where}): {what}")


def describe_disk_errors(disks: Mapping[str, str], described: str = "") -> str:
    """Which disk, and which error.

    :param disks: by target device, as the host knows it; what the error is.
    :param described: by the event, if there was one.
    """
    known = [f"{name}: {what}" for name, what in sorted(disks.items())]
    return "I/O error" + (f" ({'; '.join(known) or described})" if known or described else "")


class Lifecycle(enum.IntEnum):
    """virDomainEventType"""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    PMSUSPENDED = 7
    CRASHED = 8


#: virDomainEventStoppedDetailType. QEMU of a "failed" one was killed, or died.
_STOP_CAUSES: Mapping[int, tuple[Cause, str]] = {
    0: (Cause.ASKED, "shut down from inside"),
    1: (Cause.ASKED, "destroyed by an operator or a program (virsh destroy)"),
    2: (Cause.FAILURE, "it has crashed"),
    3: (Cause.ASKED, "migrated to another host"),
    4: (Cause.ASKED, "saved to a file (virsh save)"),
    5: (Cause.FAILURE, "its QEMU was killed or has failed"),
    6: (Cause.ASKED, "replaced by a snapshot"),
}
#: virDomainEventSuspendedDetailType of pauses that libvirt's state does not tell.
_LASTING_PAUSE_CAUSES: Mapping[int, tuple[Cause, str]] = {
    6: _PAUSE_CAUSES["api error"],
    8: _PAUSE_CAUSES["post-copy failed"],
}

_UNEXPLAINED_END = DomainReport(
    DomainState.GONE, Cause.FAILURE, "its QEMU has ended and nothing is known of the cause"
)


def make_end_report(detail: int | None, said_before: str = "") -> DomainReport:
    """Of a domain whose QEMU has ended.

    :param detail: of libvirt's STOPPED; None: it has said nothing.
    :param said_before: ``panic``, ``watchdog`` or ``signal``: what QEMU did shortly before.
    """
    if said_before == "panic":
        return DomainReport(DomainState.GONE, Cause.FAILURE, PANIC_TEXT)
    # QEMU itself exits then, and libvirt takes that for a failure of QEMU's.
    if said_before == "watchdog" and detail in (None, 0, 2, 5):
        return DomainReport(DomainState.GONE, Cause.FAILURE, "switched off by its watchdog")
    if detail is None:
        return _UNEXPLAINED_END
    if detail == 0 and said_before == "signal":
        return DomainReport(DomainState.GONE, Cause.FAILURE, "its QEMU was ended by a signal")
    return DomainReport(DomainState.GONE, *_STOP_CAUSES.get(detail, (Cause.UNKNOWN, "")))


def explain_lasting_pause(detail: int) -> DomainReport | None:
    """Of SUSPENDED: a pause whose cause libvirt's state does not tell."""
    known = _LASTING_PAUSE_CAUSES.get(detail)
    return DomainReport(DomainState.PAUSED, *known) if known is not None else None


#: virDomainEventWatchdogAction
_WATCHDOG_ACTIONS = ("nothing is done", "it is paused", "it is reset", "it is switched off",
            "it is asked to shut down", "it is noted", "it gets an NMI")  # fmt: skip
WATCHDOG_POWEROFF_ACTIONS = (3, 4)


def make_watchdog_notice(action: int) -> Notice:
    """Of itself no failure: a pause and an end are, and a guest that is reset begins anew."""
    what = _WATCHDOG_ACTIONS[action] if 0 <= action < len(_WATCHDOG_ACTIONS) else f"action {action}"
    return Notice("watchdog", f"its watchdog has expired: {what}")


#: virDomainMemoryFailureRecipientType, virDomainMemoryFailureActionType
_MEMORY_RECIPIENTS = ("QEMU's own", "the guest's")
_FATAL_MEMORY_ACTION = 2
_MEMORY_ACTIONS = ("ignored", "the guest is told", "fatal", "the guest is reset")


def make_memory_notice(recipient: int, action: int) -> Notice:
    """The host's memory has an uncorrectable error. A failure where it cannot be lived with."""
    whose = _MEMORY_RECIPIENTS[recipient] if 0 <= recipient < len(_MEMORY_RECIPIENTS) else "unknown"
    what = _MEMORY_ACTIONS[action] if 0 <= action < len(_MEMORY_ACTIONS) else f"action {action}"
    text = f"memory failure of the host in {whose} memory: {what}"
    return Notice("memory_failure", text, failure=action == _FATAL_MEMORY_ACTION)
