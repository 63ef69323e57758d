# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks and ends a domain's QEMU while libvirt does not answer."""

from __future__ import annotations

import os
import signal
import time

from vesper_monitor.hypervisor import qemu_process, qmp
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackHangsError

__all__ = ["has_shut_down", "kill_process", "press_power_button"]

#: Seconds for QEMU's monitor.
MONITOR_LIMIT_S = 2.0
#: Seconds for QEMU to end after SIGTERM.
TERM_LIMIT_S = 5.0
KILL_PAUSE_S = 0.05


def press_power_button(name: str) -> None:
    """Press the guest's power button.

    :raises ToolstackHangsError: QEMU's monitor does not answer.
    """
    try:
        qmp.ask_qemu(name, "system_powerdown", limit=MONITOR_LIMIT_S)
    except OSError as error:
        raise ToolstackHangsError(
            f"libvirtd does not answer; and QEMU's monitor: {error.strerror or error}"
        ) from None


def has_shut_down(name: str) -> bool:
    """Whether the guest shut down; then QEMU, which waits for libvirt (-no-shutdown), is ended."""
    try:
        if qmp.ask_qemu(name, "query-status", limit=MONITOR_LIMIT_S)["status"] != "shutdown":
            return False
        qmp.ask_qemu(name, "quit", limit=MONITOR_LIMIT_S)
    except (OSError, LookupError, TypeError):
        return False  # it ends just now, or libvirtd is back
    return True


def kill_process(name: str, end: float, trouble: ToolstackError) -> None:
    """End the process of a domain of this host's system libvirtd.

    :param end: CLOCK_MONOTONIC.
    :param trouble: why libvirt did not.
    :raises ToolstackError: it is not ended.
    """
    try:
        pid = qemu_process.find_qemu_pid(name)
        if pid is None:
            raise trouble
        process = os.pidfd_open(pid)
    except OSError as error:
        raise ToolstackError(f"{trouble}; and QEMU's process: {error}") from trouble
    try:
        if qemu_process.find_qemu_pid(name) != pid:
            raise trouble  # it has just ended
        log_line(f"{name}: {trouble}; ending its QEMU, process {pid}")
        left = max(0.0, end - time.monotonic())
        for number, until in (
            (signal.SIGTERM, time.monotonic() + min(TERM_LIMIT_S, left / 2)),
            (signal.SIGKILL, end),
        ):
            try:
                signal.pidfd_send_signal(process, number)
            except ProcessLookupError:
                return
            while qemu_process.find_qemu_pid(name) == pid:
                if time.monotonic() >= until:
                    break
                time.sleep(KILL_PAUSE_S)
            else:
                return
        raise ToolstackError(
            f"{trouble}; QEMU's process {pid} does not end (a disk that does not answer?)"
        )
    finally:
        os.close(process)
