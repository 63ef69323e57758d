# SPDX-License-Identifier: GPL-2.0-or-later
"""A table for docs/probes.md: how SystemTap, bpftrace and VESPER are asked for an event.

Who knows one of them finds the others.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["list_markdown_lines"]

#: event, SystemTap, bpftrace, VESPER
_TABLE: Sequence[tuple[str, str, str, str]] = (
    (
        "a signal",
        'probe signal.send { printf("%s to %s[%d]\\n", sig_name, pid_name, sig_pid) }',
        'tracepoint:signal:signal_generate { printf("%d to %s[%d]\\n", args->sig, args->comm, '
        "args->pid); }",
        "vesper probe load vm1 send_signal",
    ),
    (
        "an OOM kill",
        'probe kernel.function("oom_kill_process") { println(kernel_string($message)) }',
        'tracepoint:oom:mark_victim { printf("%d\\n", args->pid); }',
        "vesper probe load vm1 out_of_memory",
    ),
    (
        "the end of a process",
        'probe kprocess.exit { printf("%s: %d\\n", execname(), code) }',
        'tracepoint:sched:sched_process_exit { printf("%s[%d]\\n", args->comm, args->pid); }',
        "vesper probe load vm1 process_exit",
    ),
    (
        "a hung task",
        'probe kernel.trace("sched_process_hang") { println(kernel_string($tsk->comm)) }',
        'tracepoint:sched:sched_process_hang { printf("%s[%d]\\n", args->comm, args->pid); }',
        "vesper probe load vm1 hung_task",
    ),
    (
        "a failed request to a disk",
        'probe kernel.trace("block_rq_error") { println($error) }',
        'tracepoint:block:block_rq_error { printf("%d %d\\n", args->dev, args->error); }',
        "vesper probe load vm1 block_error",
    ),
    (
        "an ext4 that turns read-only",
        'probe module("jbd2").function("jbd2_journal_abort") { println($errno) }',
        'kprobe:jbd2_journal_abort { printf("%d\\n", (int32)arg1); }',
        "vesper probe load vm1 fs_error",
    ),
    (
        "a network device without link",
        'probe kernel.function("netif_carrier_off") { println(kernel_string($dev->name)) }',
        'kprobe:netif_carrier_off { printf("%s\\n", ((struct net_device *)arg0)->name); }',
        "vesper probe load vm1 net_link",
    ),
    (
        "a lost page of memory",
        'probe kernel.trace("memory_failure_event") { printf("%x: %d\\n", $pfn, $result) }',
        'tracepoint:ras:memory_failure_event { printf("%lx: %d\\n", args->pfn, args->result); }',
        "vesper probe load vm1 memory_failure",
    ),
    (
        "a soft lockup",
        'probe kernel.function("add_taint") { if ($flag == 14) println(execname()) }',
        'kprobe:add_taint /arg0 == 14/ { printf("%s\\n", comm); }',
        "vesper probe load vm1 lockup",
    ),
    (
        "an oops",
        'probe kernel.function("oops_enter") { println(execname()) }',
        'kprobe:oops_enter { printf("%s\\n", comm); }',
        "vesper probe load vm1 die",
    ),
    (
        "a file that cannot be opened",
        'probe kernel.function("do_sys_openat2").return { if ($return < 0) println(execname()) }',
        'kretprobe:do_sys_openat2 /(int32)retval < 0/ { printf("%s\\n", comm); }',
        "vesper probe add vm1 'r:failed do_sys_openat2 ret=$retval:s32 comm=$comm if ret < 0'",
    ),
    (
        "a call with a given argument",
        'probe kernel.function("do_sys_openat2") { if (user_string($filename) == "/etc/shadow") '
        "println(execname()) }",
        'kprobe:do_sys_openat2 /str(arg1) == "/etc/shadow"/ { printf("%s\\n", comm); }',
        "vesper probe add vm1 'p:shadow do_sys_openat2 path=+0($arg2):ustring "
        'if path == "/etc/shadow"\'',
    ),
    (
        "a tracepoint",
        'probe kernel.trace("signal_generate") { printf("%d %d\\n", $sig, $result) }',
        'rawtracepoint:signal_generate { printf("%d %d\\n", arg0, arg4); }',
        "vesper probe add vm1 't:signals signal_generate sig=$arg1:s32 result=$arg5:s32'",
    ),
)


def list_markdown_lines() -> list[str]:
    """Return the section with the table, in lines of Markdown."""
    lines = [
        "## The same event in SystemTap, bpftrace and VESPER",
        "",
        "SystemTap and bpftrace run in the guest, as programs of its user space, and print text. "
        "A probe of VESPER's is asked for on the host, and its events go to the journal, to "
        "`vesper events` and to the fault rules. Fields are called as in the kernel's tracepoints "
        "(`pid`, `comm`, `sig`, `code`, `sector`, `error`, `pfn`, `oom_score_adj` ..); an amount "
        "has its unit in the name (`anon_rss_kb`). What `vesper probe add` understands: "
        "[vesper-dynamic-probes(7)](man/vesper-dynamic-probes.7).",
        "",
        "| event | SystemTap | bpftrace | VESPER |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row[0]} | `{row[1]}` | `{row[2]}` | `{row[3]}` |" for row in _TABLE]
    return lines
