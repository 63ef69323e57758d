# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each probe is in the kernel, and how ftrace and bpftrace are asked for the same.

``<structure.member>`` in their words stands for its offset, as vsp_fire says
it for the kernel that runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["POINTS", "Point"]


@dataclass(frozen=True)
class Point:
    """
    :ivar name: what vsp_fire calls it.
    :ivar params: the probe's, so that each hit is recorded; of a point of the
        user's what its definition ends with.
    :ivar driven: how the point is passed.
    :ivar ftrace: function and arguments of a kprobe event; or "system/event",
        where the kernel has a tracepoint there, which costs less than that.
    :ivar bpftrace: the program.
    """

    name: str
    probe: str
    params: str
    driven: str
    ftrace: str
    bpftrace: str

    def ftrace_event(self, offsets: Mapping[str, int]) -> tuple[str, str]:
        """Return the line for kprobe_events, or "", and the folder of the event."""
        if "/" in self.ftrace:
            return "", self.ftrace
        return (
            f"p:vesper/{self.probe} {_fill_offsets(self.ftrace, offsets)}",
            f"vesper/{self.probe}",
        )

    def make_definition(self, offsets: Mapping[str, int]) -> str:
        """Return the definition of the dynamic probe, in ftrace's syntax."""
        return f"p:mine {_fill_offsets(self.ftrace, offsets)} {self.params}"

    def bpftrace_program(self, offsets: Mapping[str, int]) -> str:
        return _fill_offsets(self.bpftrace, offsets)


def _fill_offsets(text: str, offsets: Mapping[str, int]) -> str:
    return re.sub(r"<([a-z_]+\.[a-z_]+)>", lambda found: str(offsets[found[1]]), text)


CALLED = "called, returns at once"
PASSED = "tracepoint's callbacks called"

#: As many as a point may have, numbers and texts of several depths.
_VALUES = (
    "dead=%si:s32 asker=$comm pid=+<task_struct.tgid>(%di):s32 "
    "code=+<task_struct.exit_code>(%di):s32 uid=+<cred.uid>(+<task_struct.cred>(%di)):u32 "
    "comm=+<task_struct.comm>(%di):string "
    "parent_pid=+<task_struct.tgid>(+<task_struct.real_parent>(%di)):s32 "
    "parent_comm=+<task_struct.comm>(+<task_struct.real_parent>(%di)):string"
)

POINTS = (
    Point(
        "send_signal", "send_signal", "max_per_s=4294967295",
        "do_send_sig_info(SIGUSR1) to itself, ignored",
        "__send_signal_locked sig=%di:s32 code=+<kernel_siginfo.si_code>(%si):s32 "
        "addr=+<kernel_siginfo._sifields>(%si):x64 type=%cx:u32 force=%r8:u8 "
        "pid=+<task_struct.pid>(%dx):s32 tgid=+<task_struct.tgid>(%dx):s32 "
        "comm=+<task_struct.comm>(%dx):string "
        "uid=+<cred.uid>(+<task_struct.cred>(%dx)):u32 "
        "leader_comm=+<task_struct.comm>(+<task_struct.group_leader>(%dx)):string "
        "parent_pid=+<task_struct.tgid>(+<task_struct.real_parent>(%dx)):s32 "
        "parent_comm=+<task_struct.comm>(+<task_struct.real_parent>(%dx)):string "
        "sender_comm=$comm",
        "kprobe:__send_signal_locked { $t = (struct task_struct *)arg2; "
        "$i = (struct kernel_siginfo *)arg1; "
        'printf("%d %d %x %d %d %s %d %d %d %s %d %s %d %s\\n", arg0, $i->si_code, '
        "$i->_sifields._sigfault._addr, pid, tid, comm, uid, $t->pid, $t->tgid, $t->comm, "
        "$t->cred->uid.val, $t->group_leader->comm, $t->real_parent->tgid, "
        "$t->real_parent->comm); }",
    ),
    Point(
        "oom_kill_process", "out_of_memory", "", CALLED,
        "oom_kill_process order=+<oom_control.order>(%di):s32 "
        "constraint=+<oom_control.constraint>(%di):u32 gfp=+<oom_control.gfp_mask>(%di):x32 "
        "total=+<oom_control.totalpages>(%di):u64 "
        "pid=+<task_struct.tgid>(+<oom_control.chosen>(%di)):s32 "
        "comm=+<task_struct.comm>(+<oom_control.chosen>(%di)):string "
        "uid=+<cred.uid>(+<task_struct.cred>(+<oom_control.chosen>(%di))):u32 "
        "adj=+<signal_struct.oom_score_adj>(+<task_struct.signal>(+<oom_control.chosen>(%di))):s16 "
        "ppid=+<task_struct.tgid>(+<task_struct.real_parent>(+<oom_control.chosen>(%di))):s32 "
        "pcomm=+<task_struct.comm>(+<task_struct.real_parent>(+<oom_control.chosen>(%di))):string "
        "vm=+<mm_struct.total_vm>(+<task_struct.mm>(+<oom_control.chosen>(%di))):u64 "
        "file=+<mm_struct.rss_stat>(+<task_struct.mm>(+<oom_control.chosen>(%di))):u64 "
        "pgt=+<mm_struct.pgtables_bytes>(+<task_struct.mm>(+<oom_control.chosen>(%di))):u64 "
        "asker=$comm",
        "kprobe:oom_kill_process { $o = (struct oom_control *)arg0; $t = $o->chosen; "
        'printf("%d %s %d %d %x %d %d %d %d %s %d %s %d %d %d\\n", pid, comm, $o->order, '
        "$o->constraint, $o->gfp_mask, $o->totalpages, $t->tgid, $t->cred->uid.val, "
        "$t->signal->oom_score_adj, $t->comm, $t->real_parent->tgid, $t->real_parent->comm, "
        "$t->mm->total_vm, $t->mm->rss_stat.count[0].counter, $t->mm->pgtables_bytes.counter); }",
    ),
    Point(
        "taskstats_exit", "process_exit", "min_age_ms=0", CALLED,
        "taskstats_exit dead=%si:s32 "
        "code=+<task_struct.exit_code>(+<task_struct.group_leader>(%di)):s32 "
        "flags=+<signal_struct.flags>(+<task_struct.signal>(%di)):u32 "
        "pid=+<task_struct.tgid>(%di):s32 uid=+<cred.uid>(+<task_struct.cred>(%di)):u32 "
        "start=+<task_struct.start_time>(+<task_struct.group_leader>(%di)):u64 "
        "comm=+<task_struct.comm>(+<task_struct.group_leader>(%di)):string "
        "parent_pid=+<task_struct.tgid>(+<task_struct.real_parent>(%di)):s32 "
        "parent_comm=+<task_struct.comm>(+<task_struct.real_parent>(%di)):string",
        "kprobe:taskstats_exit { $t = (struct task_struct *)arg0; if (arg1 != 0) { "
        '$l = $t->group_leader; printf("%d %d %d %d %d %s %d %s\\n", $l->tgid, $l->exit_code, '
        "$l->signal->flags, $l->cred->uid.val, nsecs - $l->start_time, $l->comm, "
        "$l->real_parent->tgid, $l->real_parent->comm); } }",
    ),
    Point(
        "sched_process_hang", "hung_task", "", PASSED,
        "sched/sched_process_hang",
        'tracepoint:sched:sched_process_hang { printf("%d %s\\n", args->pid, args->comm); }',
    ),
    Point(
        "block_rq_error", "block_error", "max_per_s=4294967295", PASSED,
        "block/block_rq_error",
        'tracepoint:block:block_rq_error { printf("%d %d %d %d %s\\n", args->dev, args->sector, '
        "args->nr_sector, args->error, args->rwbs); }",
    ),
    Point(
        "jbd2_journal_abort", "fs_error", "max_per_s=4294967295", CALLED,
        "jbd2_journal_abort error=%si:s32 flags=+<journal_s.j_flags>(%di):x64 "
        "dev=+<block_device.bd_dev>(+<journal_s.j_fs_dev>(%di)):u32 "
        "disk=+<gendisk.disk_name>(+<block_device.bd_disk>(+<journal_s.j_fs_dev>(%di))):string "
        "fstype=+0(+0(+<super_block.s_type>(+<inode.i_sb>(+<journal_s.j_inode>(%di))))):string",
        'kprobe:jbd2_journal_abort { printf("%d %d %s %s\\n", arg1, '
        "*(uint32 *)(*(uint64 *)(arg0 + <journal_s.j_fs_dev>) + <block_device.bd_dev>), "
        "str(*(uint64 *)(*(uint64 *)(arg0 + <journal_s.j_fs_dev>) + <block_device.bd_disk>) "
        "+ <gendisk.disk_name>), "
        "str(*(uint64 *)(*(uint64 *)(*(uint64 *)(*(uint64 *)(arg0 + <journal_s.j_inode>) "
        "+ <inode.i_sb>) + <super_block.s_type>)))); }",
    ),
    Point(
        "xfs_do_force_shutdown", "fs_error", "max_per_s=4294967295", CALLED,
        "xfs_do_force_shutdown flags=%si:x32 file=+0(%dx):string line=%cx:s32",
        'kprobe:xfs_do_force_shutdown { printf("%x %s %d\\n", arg1, str(arg2), arg3); }',
    ),
    Point(
        "__btrfs_handle_fs_error", "fs_error", "max_per_s=4294967295", CALLED,
        "__btrfs_handle_fs_error function=+0(%si):string line=%dx:s32 error=%cx:s32",
        'kprobe:__btrfs_handle_fs_error { printf("%s %d %d\\n", str(arg1), arg2, arg3); }',
    ),
    Point(
        "net_link", "net_link", "", "call_netdevice_notifiers(NETDEV_CHANGE), link off and on",
        "call_netdevice_notifiers event=%di:u64 ifindex=+<net_device.ifindex>(%si):s32 "
        "state=+<net_device.state>(%si):x64 device=+<net_device.name>(%si):string",
        "kprobe:call_netdevice_notifiers { $d = (struct net_device *)arg1; "
        'printf("%d %d %x %s\\n", arg0, $d->ifindex, $d->state, $d->name); }',
    ),
    Point(
        "memory_failure_event", "memory_failure", "", PASSED,
        "ras/memory_failure_event",
        'tracepoint:ras:memory_failure_event { printf("%lx %d %d\\n", args->pfn, args->type, '
        "args->result); }",
    ),
    Point(
        "print_cpu_stall_info", "lockup", "max_per_s=4294967295", CALLED,
        "print_cpu_stall_info cpu=%di:s32 comm=$comm",
        'kprobe:print_cpu_stall_info { printf("%d %d %d %s\\n", arg0, pid, tid, comm); }',
    ),
    Point(
        "taskstats_exit", "probe_point", "max 1000000/s", CALLED,
        f"taskstats_exit {_VALUES}",
        "kprobe:taskstats_exit { $t = (struct task_struct *)arg0; "
        'printf("%d %s %d %d %d %s %d %s\\n", arg1, comm, $t->tgid, $t->exit_code, '
        "$t->cred->uid.val, $t->comm, $t->real_parent->tgid, $t->real_parent->comm); }",
    ),
)  # fmt: skip
