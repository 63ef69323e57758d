# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fast monitors share with the rest of the agent; it imports almost nothing."""

from __future__ import annotations

import os
import sys
import time

import vesper_monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AGAIN",
    "CARRIED",
    "DEEP",
    "DOMAIN",
    "FIRST",
    "MAX_REASON_BYTES",
    "begin_waiting",
    "call_key",
    "config_key",
    "end_waiting",
    "log_line",
    "mark_first",
    "one_line",
    "process_age",
    "set_exit_reason",
    "shorten_reason",
    "state_dir",
    "state_file",
    "waiting_time",
]

#: Kinds of files of a resource's: see :func:`begin_waiting`; what the last monitor
#: has asked vesperd, for the next; its domain (vesper_monitor/ocf/domain_identity.py);
#: what a second monitor looks at (vesper_monitor/ocf/deep_check.py); a fault that has
#: come along with the VM (vesper_monitor/ocf/hand_over.py).
FIRST = "first"
AGAIN = "again"
DOMAIN = "domain"
DEEP = "deep"
CARRIED = "carried"

#: Parameters that name the domain's configuration file.
CONFIG_PARAMETERS = ("OCF_RESKEY_xmfile", "OCF_RESKEY_config")

#: Bytes of an exit reason that Pacemaker keeps (EXIT_REASON_MAX_LEN in its
#: daemons/execd/execd_commands.c, 1.1 to 2.1 at least).
MAX_REASON_BYTES = 128
CUT = " ... "


def state_dir(environ: Mapping[str, str]) -> str:
    """Return the folder for what lasts until the node boots."""
    return environ.get("HA_RSCTMP") or "/run/resource-agents"


def state_file(folder: str, resource: str, kind: str) -> str:
    """Return the path of a resource's file in there."""
    return f"{folder}/vesper-{resource.replace('/', '_')}.{kind}"


def mark_first(path: str, owner: str = "") -> None:
    """Make the next recurring monitor the first. Never fails."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        os.write(descriptor, owner.encode())
        os.close(descriptor)
    except OSError as error:
        log_line(f"{path}: {error.strerror}")


def begin_waiting(path: str) -> bool:
    """Begin a recurring monitor.

    :returns: whether it is the first of its operation, for which Pacemaker
        waits: after a start or a plain monitor, or if the last one was killed.
        Then Pacemaker had cancelled the operation, and this is another one
        (maintenance mode, a changed interval).
    """
    first = os.path.exists(path)
    mark_first(path, str(os.getpid()))
    return first


def end_waiting(path: str) -> None:
    """End a recurring monitor. The mark that a plain monitor set meanwhile stays."""
    try:
        with open(path) as file:
            mine = file.read() == str(os.getpid())
        if mine:
            os.unlink(path)
    except OSError:
        pass


def call_key(environ: Mapping[str, str]) -> str:
    """Return one line with all that Pacemaker gave this call, and the agent's version.

    It changes with the configuration file, too.
    """
    given = sorted((key, value) for key, value in environ.items() if key.startswith("OCF_"))
    return f"{vesper_monitor.__version__} {config_key(environ)} {given!r}"


def config_key(environ: Mapping[str, str]) -> str:
    """Return one line that changes when parameter or file may name another domain."""
    path = next((environ[name] for name in CONFIG_PARAMETERS if environ.get(name)), "")
    try:
        status = os.stat(path)
        file = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    except (OSError, ValueError):
        file = "none"
    return f"{file} {path!r} {environ.get('OCF_RESKEY_name', '')!r}"


def process_age() -> float:
    """Return the seconds since this process was started (proc(5): /proc/self/stat, field 22)."""
    try:
        with open("/proc/self/stat") as stat:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def waiting_time(timeout: float) -> float:
    """Return the seconds that a monitor of an operation with that timeout waits.

    The rest is for the case that vesperd hangs and the toolstack must be asked.
    """
    return max(0.0, timeout - min(max(timeout / 5, 2.0), 10.0))


def log_line(text: str) -> None:
    """Write a line to Pacemaker's log (it takes an agent's standard error)."""
    sys.stderr.write(one_line(text) + "\n")


def set_exit_reason(reason: str) -> None:
    """Report why an action did not succeed; Pacemaker shows the marked line."""
    reason = one_line(reason)
    if (short := shorten_reason(reason)) != reason:
        log_line(reason)
    sys.stderr.write(f"ocf-exit-reason:{short}\n")


def shorten_reason(reason: str) -> str:
    """Shorten a reason to what Pacemaker keeps.

    Pacemaker cuts off the end; but a reason begins with what happened and ends
    with what to do.  So the least important parts go first: that a guest flaps, then
    numbers in brackets, the last first.  If that is not enough, the middle goes.
    """
    if len(reason.encode()) > MAX_REASON_BYTES:
        reason = reason.partition("; flapping: ")[0]
    end = len(reason)
    while len(reason.encode()) > MAX_REASON_BYTES and (end := reason.rfind(")", 0, end)) >= 0:
        begin = reason.rfind(" (", 0, end)
        if begin >= 0 and any(word[0].isdigit() for word in reason[begin + 2 : end].split()):
            reason = reason[:begin] + reason[end + 1 :]
            end = begin
    if len(reason.encode()) <= MAX_REASON_BYTES:
        return reason
    room = MAX_REASON_BYTES - len(CUT)
    begin_part = reason.encode()[: room // 2].decode(errors="ignore")
    end_part = reason.encode()[-(room // 2) :].decode(errors="ignore")
    return begin_part + CUT + end_part


def one_line(text: str) -> str:
    """Return a text without control characters: parts of a reason come from a guest."""
    return "".join(c if c.isprintable() else " " for c in text)[:1000]
