# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is to know of each probe, for people.

The one place of that text: ``vesper probe info``, docs/probes.md and
vesper-probes(7) are made of it (``python3 -m vesper_monitor.probes FORMAT``),
and a test compares them, and that no folder of probe_modules is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vesper_monitor import elsewhere

__all__ = ["COMMON_PARAMS", "PROBES", "ProbeInfo", "markdown", "roff", "sections", "to_json"]


@dataclass(frozen=True)
class ProbeInfo:
    """One probe.

    :ivar sees: what it sees; one or more sentences.
    :ivar hooks: where in the kernel, and since which version, one per place.
    :ivar not_seen: what one might expect and does not get.
    :ivar cost: what a hit costs, and when there is one.
    :ivar fault: which of its events are faults by default, or "none"; why.
    :ivar params: module parameter → what it does.
    :ivar needs: kernel options that Debian's kernels have.
    """

    sees: str
    hooks: tuple[str, ...]
    not_seen: str
    cost: str
    fault: str
    why: str
    params: Mapping[str, str]
    needs: tuple[str, ...] = ()


#: Of all of them.
COMMON_PARAMS: Mapping[str, str] = {
    "subbuf_size": "bytes of a relay sub-buffer (16384)",
    "n_subbufs": "number of sub-buffers per CPU, 2 to 8 (4)",
}


def _measured(vesper: float, ftrace: float, bpftrace: float, driven: str) -> str:
    """:param vesper: and the others: µs, as ``make bench-probes`` says."""
    return (
        f"{vesper} µs for a hit with a record; an event of ftrace with the same values {ftrace} "
        f"µs, a program of bpftrace that prints them {bpftrace} µs ({driven})."
    )


_CALLED = "the function was called and made to return at once"
_PASSED = "the tracepoint's callbacks were called; ftrace's own event for it, which says less"

#: About the figures.
MEASURED = (
    "What a hit costs, beside the passage of the place itself, was measured by `make bench-probes` "
    "in a guest with Debian's Linux 6.1 on an emulated CPU, where everything takes about ten "
    "times as long as on a real one: what tells is the comparison, which was made in one run, "
    "with the guest's host reading. Where a function was called and made to return, there was "
    "a kprobe before, that of the benchmark: to enter a first one costs all three the same, "
    "some 0.2 µs there."
)

PROBES: Mapping[str, ProbeInfo] = {
    "send_signal": ProbeInfo(
        sees="Each signal that is sent, by whom and to whom, and whether it will kill: not if it "
        "is handled, blocked or ignored, nor if a tracer decides.",
        hooks=(
            "kprobe on __send_signal_locked(), Linux 5.19 and later",
            "kprobe on __send_signal(), before",
        ),
        not_seen="Signals of POSIX timers. A process that ends by itself: process_exit. Whose the "
        "process is (login_uid, cgroup, age_ms, elder_pid) where the signal does not kill it.",
        cost="One kprobe per signal sent, a record only for some of them: "
        + _measured(0.94, 5.42, 6.36, "do_send_sig_info() to oneself, ignored"),
        fault="a signal that kills the main process of a named service; not if a user has "
        "started it, if init or its parent has asked it to end, or if it is younger than 5 s while "
        "an older one lives; but the third of such young ones within 60 s",
        why="The service is gone, and how is known before the process has ended. Any process can "
        "take its name: what a login has started shows by its login uid and its cgroup, which its "
        "user cannot change. A reboot and a restart end services in an orderly way. A young "
        "process beside the service may be a check of the configuration.",
        params={
            "quiet": "bit mask, 1 << (signal - 1): signals recorded only if they kill (timers, "
            "job control, real-time signals)",
            "fatal_only": "record only signals that kill (no)",
            "max_per_s": "record at most so many in a second that do not kill (100)",
            "max_users_per_s": "record at most so many in a second that kill one user's own "
            "processes (10)",
        },
    ),
    "out_of_memory": ProbeInfo(
        sees="The OOM killer: its victim and the memory that it had, who asked for memory, and "
        "what was short (the system, a cgroup, a cpuset, a memory policy).",
        hooks=("kprobe on oom_kill_process(), as in Linux 5.10 to 7.3",),
        not_seen="A guest that swaps itself to death without an OOM kill; a kill by a daemon of "
        "the guest's user space (systemd-oomd), which is a signal.",
        cost="One kprobe per OOM kill, which is rare: " + _measured(0.78, 6.11, 5.72, _CALLED),
        fault="an OOM kill for lack of memory in the system, of the service if its main process is "
        "the victim, else of the system; in a memory cgroup, a cpuset or a memory policy only if "
        "it hits the service's main process, which no user has started",
        why="A system that kills processes for lack of memory is not the one that was set up; "
        "which of them it takes next is chance. A memory cgroup has a limit of its own: a job "
        "or a container that exceeds it is killed while the system has memory, and every user may "
        "start such a job, or limit himself to a node of the memory. The original VESPER calls "
        "every OOM kill a fault: out_of_memory: any.",
        params={
            "max_users_per_s": "record at most so many in a second that kill one user's own "
            "processes, while the system has memory (10)",
        },
    ),
    "process_exit": ProbeInfo(
        sees="The end of a process: exit status or signal, whether the OOM killer chose it, its "
        "age and its parent. Once per process, when the last of its threads ends.",
        hooks=(
            "kprobe on taskstats_exit(), which do_exit() calls, as in Linux 5.10 to 7.3",
            "kprobe on __send_signal_locked() or __send_signal(), as in send_signal, for what was "
            "asked to end",
        ),
        not_seen="Without names, processes that lived for less than min_age_ms. A process that "
        "is replaced by exec. Kernel threads.",
        cost="One kprobe per thread that ends, a record only for processes that are wanted: "
        + _measured(0.82, 4.36, 5.68, _CALLED),
        fault="the main process of a named service ends by a signal or with a status other than "
        "0, at an age of 5 s or more; not if a user has started it, or init or its parent has "
        "asked it to end",
        why="Status 0 is no fault: a daemon's first process ends so after it has forked, and so "
        "does a service that was asked to stop. A younger process of that name may be a check "
        "of the configuration.",
        params={
            "names": "processes to record, at any age, comma-separated, at most 16 (all)",
            "min_age_ms": "without names: only processes that lived so long, in ms (1000)",
            "max_users_per_s": "record at most so many in a second of one user's own (10)",
        },
        needs=("CONFIG_TASKSTATS",),
    ),
    "hung_task": ProbeInfo(
        sees="A task that was in uninterruptible sleep for kernel.hung_task_timeout_secs (120 s), "
        "again after each further such time, whether or not the kernel still logs it.",
        hooks=("tracepoint sched:sched_process_hang in khungtaskd, as in Linux 5.10 to 7.3",),
        not_seen="A task that hangs in a sleep that can be interrupted or killed; one that spins. "
        "Nothing while hung_task_timeout_secs is 0.",
        cost="One tracepoint per hung task and timeout, in a kernel thread: "
        + _measured(0.53, 0.8, 4.3, _PASSED),
        fault="a thread of the main process of a named service, which no user has started",
        why="For two minutes the service has not got on, and cannot even be killed. Other tasks "
        "that hang are for a person to look at: a backup or a slow disk does that.",
        params={},
        needs=("CONFIG_DETECT_HUNG_TASK",),
    ),
    "block_error": ProbeInfo(
        sees="A request to a block device that failed: device, operation, sector, error. Where "
        'the kernel logs "I/O error, dev ...", and under the same conditions.',
        hooks=(
            "tracepoint block:block_rq_error, Linux 5.18 and later",
            "tracepoint block:block_rq_complete, before",
        ),
        not_seen="Errors of requests that were marked quiet by who sent them. Device mapper and "
        "md have no requests of their own: those to the disks beneath are seen.",
        cost="Since 5.18 one tracepoint per failed request; before, one per request, with a "
        "record only if it failed: " + _measured(0.64, 0.87, 4.03, _PASSED),
        fault="none",
        why="RAID, multipath and file systems are made to live with an error. That one did not "
        "is what the fs_error probe says.",
        params={"max_per_s": "record at most so many in a second; 0: all (20)"},
    ),
    "fs_error": ProbeInfo(
        sees="A file system that takes no more writes because of an error: ext4 (with its "
        "journal) read-only, xfs shut down, btrfs forced read-only; with its disk and, as mount, "
        "where it is mounted. Also in modules that are loaded after the probe.",
        hooks=(
            "kprobe on jbd2_journal_abort(), for ext4, as in Linux 5.10 to 7.3",
            "kprobe on xfs_do_force_shutdown(), as in Linux 5.10 to 7.3",
            "kprobe on xlog_force_shutdown(), for the log of xfs, where there is one",
            "kprobe on __btrfs_handle_fs_error(), as in Linux 5.10 to 7.3",
        ),
        not_seen="ext4 without a journal, or with errors=continue, which stays writable. Of "
        "several mounts (binds, subvolumes) more than the first, and only in the mount namespace "
        "of process 1; of a path of more than 127 bytes more than its end, without a / before it. "
        "A mount of a moment ago: mount is then none, and so is the disk of xfs and btrfs. Before "
        "Linux 6.8, which of several btrfs it is: disk and mount are none. A read-only mount or "
        "remount that somebody asked for.",
        cost="One kprobe per such error: " + _measured(2.31, 3.33, 4.54, _CALLED),
        fault="every one, of the system, but for a shutdown that was asked for (ESHUTDOWN)",
        why="What was on it can be read at best, and it stays so until it is mounted anew, which "
        "nobody does by himself.",
        params={"max_per_s": "record at most so many in a second; 0: all (5)"},
    ),
    "net_link": ProbeInfo(
        sees="A network device that loses its link, is taken down or removed, or loses its last "
        "IPv4 address; and when it has link or address again.",
        hooks=(
            "notifier register_netdevice_notifier(), as in Linux 5.10 to 7.3",
            "notifier register_inetaddr_notifier(), as in Linux 5.10 to 7.3",
        ),
        not_seen="Devices without one beneath them (bridges, bonds, tunnels, the pairs of "
        "containers), and those in other network namespaces. IPv6 addresses. A link that is up "
        "and leads nowhere.",
        cost="One call per change of a device or an address: "
        + _measured(0.83, 2.87, 4.96, "call_netdevice_notifiers(); theirs are on that function"),
        fault="none",
        why="Links flap, and a live migration interrupts them: only one that stays away is a "
        "fault, and that somebody outside sees better.",
        params={},
    ),
    "memory_failure": ProbeInfo(
        sees="A page of memory that the hardware has lost, what was in it, and whether the kernel "
        "could do without it (recovered, delayed) or not (ignored, failed).",
        hooks=("tracepoint ras:memory_failure_event, as in Linux 5.10 to 7.3",),
        not_seen="Errors that the memory has corrected. What the host does not tell the guest: "
        "the page is the guest's only if the hypervisor passes the machine check on.",
        cost="One tracepoint per lost page: "
        + _measured(0.61, 0.80, 3.48, "the tracepoint's callbacks were called"),
        fault="a page that the kernel could not do without (ignored or failed), of the system",
        why="The kernel goes on with memory of which it knows that it is wrong. Where it could "
        "do without the page, a process that had data in it gets SIGBUS: see send_signal.",
        params={},
        needs=("CONFIG_MEMORY_FAILURE (Debian's cloud kernels before 6.12 have it not)",),
    ),
    "lockup": ProbeInfo(
        sees="A CPU that gets on with nothing, as the kernel finds it: a soft lockup (no other "
        "task was run for twice kernel.watchdog_thresh, 20 s) and a stall of RCU (21 s), again "
        "after a while.",
        hooks=(
            "kprobe on add_taint() with TAINT_SOFTLOCKUP, as in Linux 5.10 to 7.3",
            "kprobe on print_cpu_stall_info(), as in Linux 5.10 to 7.3",
        ),
        not_seen="A CPU with interrupts off, but by the others' RCU stall: the daemon's "
        "hang_timeout sees it. The task, where another CPU finds the stall. Expedited grace "
        "periods.",
        cost="Two kprobes that are hit by nothing else but taints of the kernel (a foreign "
        "module): "
        + _measured(
            0.51, 1.75, 3.38, "print_cpu_stall_info() was called and made to return at once"
        ),
        fault="none",
        why="A guest that its host leaves without CPU looks the same from inside. "
        "hang_timeout tells the two apart, and is sooner.",
        params={"max_per_s": "record at most so many in a second; 0: all (10)"},
        needs=("CONFIG_SOFTLOCKUP_DETECTOR",),
    ),
    "die": ProbeInfo(
        sees="An oops of the kernel (task, instruction, trap and error code; of a page fault the "
        "kernel notes the latter alone) and a panic.",
        hooks=(
            "notifier register_die_notifier() with DIE_OOPS, as in Linux 5.10 to 7.3",
            "notifier atomic_notifier_chain_register() of panics, as in Linux 5.10 to 7.3",
        ),
        not_seen="Stack and log: the last words have them. A panic where a crash kernel is "
        "loaded. Warnings.",
        cost="One call per oops and panic. There is nothing to compare it with: no kprobe may be "
        "where the kernel calls its die notifiers.",
        fault="none",
        why="The last words of the kernel, which need no probe, are the fault already; this is "
        "for rules over the place or the trap.",
        params={},
    ),
    "probe_point": ProbeInfo(
        sees="Any function of the kernel that a kprobe can be on, its return, or a tracepoint, "
        "with up to 8 values, a condition and a limit: what vesper probe add VM DEFINITION "
        "loads, under the definition's name and several at once. See vesper-points(7).",
        hooks=("kprobe, return probe or tracepoint: the one that is named",),
        not_seen="Functions that the compiler has made part of others, and those that kprobes "
        "refuse. Tracepoints in modules, and all of them in kernels that check the types of "
        "functions (CFI), which refuse the point. Hits within its own handler (counted as missed).",
        cost="One kprobe, return probe or tracepoint per hit, some instructions per value, a "
        "record where the condition holds; with eight values, three of them texts: "
        + _measured(3.30, 4.17, 4.42, "taskstats_exit() was called and made to return at once"),
        fault="none",
        why="What it means only its author knows: say it in a rule.",
        params={
            "at": "p:SYMBOL[+OFFSET], r:SYMBOL or t:TRACEPOINT (made by vesper probe add)",
            "args": "the values (likewise)",
            "only": "the condition (likewise)",
            "id": "of the definition (likewise)",
            "max_active": "return probe: calls followed at once (the kernel's choice)",
            "max_per_s": "record at most so many in a second; 0: all (100)",
        },
    ),
}


def to_json(name: str) -> dict[str, Any]:
    """For ``vesper probe info --json``. :raises KeyError:"""
    info = PROBES[name]
    return {"probe": name, **asdict(info), "params": {**info.params, **COMMON_PARAMS}}


def sections(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """The text about a probe: headings, and a line or lines below each."""
    info = PROBES[name]
    said: list[tuple[str, tuple[str, ...]]] = [
        ("Sees", (info.sees,)),
        ("Where", info.hooks),
        ("Does not see", (info.not_seen,)),
        ("Cost", (info.cost,)),
        ("Fault by default", (info.fault,)),
        ("Why", (info.why,)),
    ]
    if info.params:
        said.append(("Parameters", tuple(f"{key}: {text}" for key, text in info.params.items())))
    if info.needs:
        said.append(("Needs", info.needs))
    return said


def markdown() -> str:
    """docs/probes.md"""
    lines = [
        "# Probes",
        "",
        "Each is a kernel module in `probe_modules/`, sent into a running guest by the host "
        "(`vesper probe load VM NAME [KEY=VALUE ...]`). This page is made by "
        "`python3 -m vesper_monitor.probes markdown`; `vesper probe info NAME` says the same.",
        "",
        "| probe | sees | fault by default |",
        "|---|---|---|",
    ]
    for name, info in PROBES.items():
        lines.append(f"| [{name}](#{name}) | {_first_sentence(info.sees)} | {info.fault} |")
    lines += ["", MEASURED, "", "Parameters that all of them have:", ""]
    lines += [f"- `{key}`: {text}" for key, text in COMMON_PARAMS.items()]
    for name in PROBES:
        lines += ["", f"## {name}", ""]
        for heading, texts in sections(name):
            if heading == "Parameters":
                lines += ["- Parameters:"]
                lines += [f"  - `{key}`: {text}" for key, text in PROBES[name].params.items()]
            else:
                lines.append(f"- {heading}: {'; '.join(texts)}")
    lines += ["", *elsewhere.markdown()]
    return "\n".join(lines) + "\n"


def roff() -> str:
    """docs/man/vesper-probes.7"""
    lines = [
        r".\" SPDX-License-Identifier: GPL-2.0-or-later",
        r".\" Made by: python3 -m vesper_monitor.probes roff",
        '.TH VESPER\\-PROBES 7 2026 "VESPER 0.2.0" "Miscellaneous information"',
        ".SH NAME",
        r"vesper\-probes \- what VESPER's probes see in a guest's kernel",
        ".SH DESCRIPTION",
        "Each probe is a kernel module, sent into a running guest by the host:",
        ".B vesper probe load",
        ".I VM NAME",
        ".RI [ KEY=VALUE ...].",
        "Parameters that all of them have:",
    ]
    for key, text in COMMON_PARAMS.items():
        lines += [".TP", f".B {_escape(key)}", _escape(text)]
    lines += [".PP", _escape(MEASURED.replace("`", "")), ".SH PROBES"]
    for name in PROBES:
        lines.append(f".SS {_escape(name)}")
        for heading, texts in sections(name):
            lines += [".TP", f".B {heading}"]
            lines.append("\n.br\n".join(_escape(text) for text in texts))
    lines += [".SH SEE ALSO", ".BR vesper (8),", ".BR vesper\\-points (7),", ".BR vesperd (8)"]
    return "\n".join(lines) + "\n"


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")


def _escape(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def main(arguments: list[str]) -> int:
    """Print the page of that format."""
    formats = {"markdown": markdown, "roff": roff}
    if len(arguments) != 1 or arguments[0] not in formats:
        print("usage: python3 -m vesper_monitor.probes markdown|roff", file=sys.stderr)
        return 2
    print(formats[arguments[0]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
