# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of each probe, for people.

``vesper probe info``, docs/probes.md and vesper-probes(7) are made of it
(``python3 -m vesper_monitor.knowledge.probes FORMAT``).  A test compares them, and looks
for each folder of probe_modules.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vesper_monitor.knowledge import tracer_comparison
from vesper_monitor.rules.fault_class import describe_class

__all__ = [
    "COMMON_PARAMS",
    "PROBES",
    "ProbeInfo",
    "list_sections",
    "make_man_page",
    "make_markdown",
    "to_json",
]


@dataclass(frozen=True)
class ProbeInfo:
    """The description of a probe.

    :ivar sees: what it sees; one or more sentences.
    :ivar hooks: its places in the kernel, and since which version.
    :ivar not_seen: what one might expect and does not get.
    :ivar cost: when it is hit, and the cost of a hit.
    :ivar fault: which of its events are faults by default, or "none".
    :ivar why: the reason for that.
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


def _format_costs(vesper: float, ftrace: float, bpftrace: float, driven: str) -> str:
    """:param vesper: and the others: µs, as ``make bench-probes`` says."""
    return (
        f"{vesper} µs for a hit with a record. An event of ftrace with the same values takes "
        f"{ftrace} µs, a program of bpftrace that prints them {bpftrace} µs. In the benchmark "
        f"{driven}."
    )


_CALLED = "the function was called and made to return at once"
_PASSED = "the tracepoint's callbacks were called; ftrace's own event there has fewer values"

#: About the figures.
MEASURED = (
    "The cost of a hit was measured by `make bench-probes`, without the passage of the place "
    "itself. The guest had Debian's Linux 6.1 on an emulated CPU, where everything takes about "
    "ten times as long as on a real one. Compare the figures with each other: they were measured "
    "in one run, while the host read. Where a function was called and made to return, the "
    "benchmark had a kprobe there before. To enter a first one costs all three some 0.2 µs there."
)

PROBES: Mapping[str, ProbeInfo] = {
    "send_signal": ProbeInfo(
        sees="Each signal that is sent, its sender and its target, and whether it will kill. It "
        "will not if it is handled, blocked or ignored, or if a tracer decides.",
        hooks=(
            "kprobe on __send_signal_locked(), Linux 5.19 and later",
            "kprobe on __send_signal(), before",
        ),
        not_seen="Signals of POSIX timers. The end of a process without a signal (process_exit). "
        "Whose the process is (login_uid, cgroup, age_ms, elder_pid), if the signal does not kill "
        "it.",
        cost="One kprobe per signal sent, a record only for some of them: "
        + _format_costs(0.94, 5.42, 6.36, "a process sent itself ignored signals"),
        fault="a signal that kills the main process of a named service. It is none if a user "
        "has started the process, or if init or its parent has asked it to end. Of processes "
        "younger than 5 s beside an older one only the third within 60 s is a fault",
        why="The service has ended, and the cause is known before its process has. Any process "
        "can take the service's name. One that a login has started has a login uid and a cgroup "
        "that its user cannot change. A reboot and a restart end services in an orderly way. A "
        "young process beside the service may be a check of the configuration.",
        params={
            "quiet": "bit mask, 1 << (signal - 1): signals recorded only if they kill (timers, "
            "job control, real-time signals)",
            "fatal_only": "record only signals that kill (no)",
            "max_per_s": "record at most so many in a second that do not kill (100)",
            "max_users_per_s": "record at most so many in a second that kill one user's own "
            "processes (10)",
            "asked_s": "a signal that asks to end counts as asked for so many seconds; 0: forever "
            "(7200)",
        },
    ),
    "out_of_memory": ProbeInfo(
        sees="The OOM killer: its victim and the memory that it had, who asked for memory, and "
        "what was short (the system, a cgroup, a cpuset, a memory policy).",
        hooks=("kprobe on oom_kill_process(), as in Linux 5.10 to 7.3",),
        not_seen="A guest that swaps without end and has no OOM kill. A kill by a daemon in the "
        "guest's user space (systemd-oomd), which is a signal.",
        cost="One kprobe per OOM kill, which is rare: " + _format_costs(0.78, 6.11, 5.72, _CALLED),
        fault="an OOM kill for lack of memory in the system: of the service if its main process is "
        "the victim, else of the system. In a memory cgroup, a cpuset or a memory policy it is a "
        "fault only if it hits the service's main process, which no user has started",
        why="A system that kills processes for lack of memory is no longer as it was set up, and "
        "chance decides which process is next. A memory cgroup has a limit of its own. A job or a "
        "container that exceeds it is killed while the system has memory, and each user may start "
        "such a job. The original VESPER calls each OOM kill a fault: out_of_memory: any.",
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
            "kprobe on __send_signal_locked() or __send_signal(), as in send_signal, for processes "
            "that were asked to end",
        ),
        not_seen="Without names, processes that lived for less than min_age_ms. A process that "
        "is replaced by exec. Kernel threads.",
        cost="One kprobe per thread that ends, a record only for processes that are wanted: "
        + _format_costs(0.82, 4.36, 5.68, _CALLED),
        fault="the main process of a named service ends by a signal or with a status other than "
        "0, at an age of 5 s or more; not if a user has started it, or init or its parent has "
        "asked it to end",
        why="Status 0 is no fault. A daemon's first process ends so after it has forked, and a "
        "service that was asked to stop does, too. A younger process of that name may be a check "
        "of the configuration.",
        params={
            "names": "processes to record, at any age, comma-separated, at most 16 (all)",
            "min_age_ms": "without names: only processes that lived so long, in ms (1000)",
            "max_users_per_s": "record at most so many in a second of one user's own (10)",
            "asked_s": "a signal that asks to end counts as asked for so many seconds; 0: forever "
            "(7200)",
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
        + _format_costs(0.53, 0.8, 4.3, _PASSED),
        fault="a hung thread of the main process of a named service, which no user has started",
        why="The service has made no progress for two minutes, and cannot even be killed. Other "
        "tasks may hang for a backup or a slow disk; a person should look at those.",
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
        not_seen="Errors of requests that were marked quiet by their sender. Device mapper and "
        "md have no requests of their own: those to the disks beneath are seen.",
        cost="Since 5.18 one tracepoint per failed request; before, one per request, with a "
        "record only if it failed: " + _format_costs(0.64, 0.87, 4.03, _PASSED),
        fault="none",
        why="RAID, multipath and file systems are made to tolerate an error. If a file system does "
        "not, the probe fs_error sees it.",
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
        "remount that was asked for.",
        cost="One kprobe per such error: " + _format_costs(2.31, 3.33, 4.54, _CALLED),
        fault="each one, of the system, except a shutdown that was asked for (ESHUTDOWN)",
        why="The data on it can be read at best, until somebody mounts it anew.",
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
        + _format_costs(
            0.83, 2.87, 4.96, "call_netdevice_notifiers() was called; the other two hook it"
        ),
        fault="none",
        why="Links flap, and a live migration interrupts them. Only a link that stays down is a "
        "fault, and a check from outside sees that better.",
        params={},
    ),
    "memory_failure": ProbeInfo(
        sees="A page of memory that the hardware has lost, what was in it, and whether the kernel "
        "could do without it (recovered, delayed) or not (ignored, failed).",
        hooks=("tracepoint ras:memory_failure_event, as in Linux 5.10 to 7.3",),
        not_seen="Errors that the memory has corrected. What the host does not tell the guest: "
        "the page is the guest's only if the hypervisor passes the machine check on.",
        cost="One tracepoint per lost page: "
        + _format_costs(0.61, 0.80, 3.48, "the tracepoint's callbacks were called"),
        fault="a page that the kernel could not do without (ignored or failed), of the system",
        why="The kernel goes on with memory that it knows to be wrong. If it could do without the "
        "page, a process that had data there gets SIGBUS: see send_signal.",
        params={},
        needs=("CONFIG_MEMORY_FAILURE (Debian's cloud kernels before 6.12 lack it)",),
    ),
    "lockup": ProbeInfo(
        sees="A CPU without progress, as the kernel finds it: a soft lockup (no other task has "
        "run for twice kernel.watchdog_thresh, 20 s) or a stall of RCU (21 s), again after a "
        "while.",
        hooks=(
            "kprobe on add_taint() with TAINT_SOFTLOCKUP, as in Linux 5.10 to 7.3",
            "kprobe on print_cpu_stall_info(), as in Linux 5.10 to 7.3",
        ),
        not_seen="A CPU with interrupts off, except by the other CPUs' RCU stall; vesperd's "
        "hang_timeout sees it. The task, if another CPU finds the stall. Expedited grace "
        "periods.",
        cost="Two kprobes, which are hit by other taints of the kernel (a foreign module), too: "
        + _format_costs(
            0.51, 1.75, 3.38, "print_cpu_stall_info() was called and made to return at once"
        ),
        fault="none",
        why="A guest whose host gives it no CPU time shows such a lockup, too. hang_timeout "
        "distinguishes the two, and is sooner.",
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
        not_seen="Stack and log, which the crash log (last_words) has. A panic if a crash kernel "
        "is loaded. Warnings.",
        cost="One call per oops and panic. It cannot be compared: no kprobe may be where Linux "
        "calls its die notifiers.",
        fault="none",
        why="The crash log (last_words), which needs no probe, is the fault already. This probe is "
        "for rules about the place or the trap.",
        params={},
    ),
    "probe_point": ProbeInfo(
        sees="Any function of the kernel that a kprobe can be on, its return, or a tracepoint, "
        "with up to 8 values, a condition and a limit: what vesper probe add VM DEFINITION "
        "loads, under the definition's name and several at once. See vesper-dynamic-probes(7).",
        hooks=("kprobe, return probe or tracepoint: the one that is named",),
        not_seen="Functions that the compiler has made part of others, and those that kprobes "
        "refuse. Tracepoints in modules, and all of them in kernels that check the types of "
        "functions (CFI), which refuse the probe. Hits within its own handler (counted as missed).",
        cost="One kprobe, return probe or tracepoint per hit, some instructions per value, a "
        "record where the condition holds; with eight values, three of them texts: "
        + _format_costs(3.30, 4.17, 4.42, "taskstats_exit() was called and made to return at once"),
        fault="none",
        why="Only its author knows what it means; say it in a rule.",
        params={
            "at": "p:SYMBOL[+OFFSET], r:SYMBOL or t:TRACEPOINT (made by vesper probe add)",
            "args": "the values (made by vesper probe add)",
            "only": "the condition (made by vesper probe add)",
            "id": "of the definition (made by vesper probe add)",
            "max_active": "return probe: calls followed at once (the kernel's choice)",
            "max_per_s": "record at most so many in a second; 0: all (100)",
        },
    ),
}


def to_json(name: str) -> dict[str, Any]:
    """Return a probe's description for ``vesper probe info --json``. :raises KeyError:"""
    info = PROBES[name]
    more = {"class": describe_class(name), "params": {**info.params, **COMMON_PARAMS}}
    return {"probe": name, **asdict(info), **more}


def list_sections(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the description of a probe: headings, and the lines below each."""
    info = PROBES[name]
    said: list[tuple[str, tuple[str, ...]]] = [
        ("Sees", (info.sees,)),
        ("Where", info.hooks),
        ("Does not see", (info.not_seen,)),
        ("Cost", (info.cost,)),
        ("Fault by default", (info.fault,)),
        ("Fault class", (describe_class(name),)),
        ("Why", (info.why,)),
    ]
    if info.params:
        said.append(("Parameters", tuple(f"{key}: {text}" for key, text in info.params.items())))
    if info.needs:
        said.append(("Needs", info.needs))
    return said


def make_markdown() -> str:
    """Return the text of docs/probes.md."""
    lines = [
        "# Probes",
        "",
        "Each probe is a kernel module in `probe_modules/`. The host sends it into a running guest "
        "(`vesper probe load VM NAME [KEY=VALUE ...]`). `vesper probe info NAME` shows the text "
        "below. This page is made by `python3 -m vesper_monitor.knowledge.probes markdown`.",
        "",
        "The class of a fault is what has failed: memory, storage, network, kernel (a CPU, too), "
        "service, host or operator ([vesper-rules(7)](man/vesper-rules.7)).",
        "",
        "| probe | sees | fault by default | class |",
        "|---|---|---|---|",
    ]
    for name, info in PROBES.items():
        sees, its_class = _first_sentence(info.sees), describe_class(name).partition(";")[0]
        lines.append(f"| [{name}](#{name}) | {sees} | {info.fault} | {its_class} |")
    lines += ["", MEASURED, "", "Parameters that all of them have:", ""]
    lines += [f"- `{key}`: {text}" for key, text in COMMON_PARAMS.items()]
    for name in PROBES:
        lines += ["", f"## {name}", ""]
        for heading, texts in list_sections(name):
            if heading == "Parameters":
                lines += ["- Parameters:"]
                lines += [f"  - `{key}`: {text}" for key, text in PROBES[name].params.items()]
            else:
                lines.append(f"- {heading}: {'; '.join(texts)}")
    lines += ["", *tracer_comparison.list_markdown_lines()]
    return "\n".join(lines) + "\n"


def make_man_page() -> str:
    """Return the text of docs/man/vesper-probes.7."""
    lines = [
        r".\" SPDX-License-Identifier: GPL-2.0-or-later",
        r".\" Made by: python3 -m vesper_monitor.knowledge.probes roff",
        '.TH VESPER\\-PROBES 7 2026 "VESPER 0.3.0" "Miscellaneous information"',
        ".SH NAME",
        r"vesper\-probes \- what VESPER's probes see in a guest's kernel",
        ".SH DESCRIPTION",
        "Each probe is a kernel module, sent into a running guest by the host:",
        ".B vesper probe load",
        ".I VM NAME",
        ".RI [ KEY=VALUE ...].",
        "All probes have these parameters:",
    ]
    for key, text in COMMON_PARAMS.items():
        lines += [".TP", f".B {_escape_roff(key)}", _escape_roff(text)]
    lines += [".PP", _escape_roff(MEASURED.replace("`", "")), ".SH PROBES"]
    for name in PROBES:
        lines.append(f".SS {_escape_roff(name)}")
        for heading, texts in list_sections(name):
            lines += [".TP", f".B {heading}"]
            lines.append("\n.br\n".join(_escape_roff(text) for text in texts))
    lines += [".SH SEE ALSO", ".BR vesper (8),"]
    lines += [r".BR vesper\-dynamic\-probes (7),", ".BR vesperd (8)"]
    return "\n".join(lines) + "\n"


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")


def _escape_roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def main(arguments: list[str]) -> int:
    """Print the page in a format."""
    formats = {"markdown": make_markdown, "roff": make_man_page}
    if len(arguments) != 1 or arguments[0] not in formats:
        print("usage: python3 -m vesper_monitor.knowledge.probes markdown|roff", file=sys.stderr)
        return 2
    print(formats[arguments[0]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
