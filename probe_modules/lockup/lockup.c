// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe lockup: a CPU is stuck, as found by the kernel's own watchdogs.
 *
 *	soft lockup	add_taint(TAINT_SOFTLOCKUP, ..): watchdog_timer_fn()
 *		(kernel/watchdog.c) calls it on the stuck CPU, after its message and
 *		before its panic
 *	RCU stall	print_cpu_stall_info(cpu): called for each CPU that delays a
 *		grace period (kernel/rcu/tree_stall.h).  The tracepoint
 *		rcu_stall_warning needs CONFIG_RCU_TRACE, which distributions do not
 *		set.
 *
 * Both as in Linux 5.10 to 7.3.
 */

#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/sched.h>
#include <linux/smp.h>

#include "vesper.h"

/* One stall may be of all CPUs. */
static unsigned int max_per_s = 10;
module_param(max_per_s, uint, 0644);
MODULE_PARM_DESC(max_per_s, "record at most so many in a second; 0: all (10)");

static struct vsp_probe probe;
static struct vsp_limit limit;

/* The running task is known only if the present CPU is the stuck one. */
static void lockup_record(u32 kind, u32 cpu)
{
	struct vsp_lockup rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_LOCKUP },
		.kind = kind,
		.cpu = cpu,
	};

	if (!vsp_limit_allows(&limit, READ_ONCE(max_per_s), &rec.left_out))
		return;
	if (cpu == raw_smp_processor_id()) {
		rec.pid = current->pid;
		rec.tgid = current->tgid;
		vsp_copy_comm(rec.comm, current);
	}
	vsp_record_write(probe.channel, &rec.rec);
}

static int lockup_on_taint(struct kprobe *kp, struct pt_regs *regs)
{
	if ((u32)regs_get_kernel_argument(regs, 0) == TAINT_SOFTLOCKUP)
		lockup_record(VSP_LOCKUP_SOFT, raw_smp_processor_id());
	return 0;
}

static int lockup_on_rcu_stall(struct kprobe *kp, struct pt_regs *regs)
{
	lockup_record(VSP_LOCKUP_RCU, regs_get_kernel_argument(regs, 0));
	return 0;
}

static struct kprobe kprobes[] = {
	{ .symbol_name = "add_taint", .pre_handler = lockup_on_taint },
	{ .symbol_name = "print_cpu_stall_info", .pre_handler = lockup_on_rcu_stall },
};

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.kprobes = kprobes,
	.n_kprobes = ARRAY_SIZE(kprobes),
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: soft lockups and RCU stalls");
MODULE_LICENSE("GPL");
