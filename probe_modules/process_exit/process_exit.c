// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe process_exit: a process has ended, with a status or by a signal.
 *
 * It uses a kprobe on taskstats_exit(tsk, group_dead).  do_exit() calls it for each
 * thread when the exit code is set (kernel/exit.c).  group_dead is true for exactly
 * one thread of a process, the last.  Before Linux 6.15 the tracepoint
 * sched_process_exit does not say which thread is the last.  It needs
 * CONFIG_TASKSTATS.
 *
 * A second kprobe, where signals are sent, notes which processes were asked to end.
 */

#include <linux/oom.h>
#include <linux/sched/signal.h>
#include <linux/timekeeping.h>

#include "vesper.h"
#include "vesper_process.h"

#define MAX_NAMES	16

static char *names[MAX_NAMES];
static int n_names;
module_param_array(names, charp, &n_names, 0444);
MODULE_PARM_DESC(names, "processes to record, at any age; none: all, of some age");

/* Services live longer than the commands that a busy guest runs all day. */
static unsigned int min_age_ms = 1000;
module_param(min_age_ms, uint, 0644);
MODULE_PARM_DESC(min_age_ms, "without names: record processes that lived so long (1000)");

/* A user can start and end processes as fast as he can fork. */
static unsigned int max_users_per_s = 10;
module_param(max_users_per_s, uint, 0644);
MODULE_PARM_DESC(max_users_per_s, "record at most so many in a second of one user's own (10)");

/* Stopping a service may take long, but not forever. */
static unsigned int asked_s = VSP_ASKED_S;
module_param(asked_s, uint, 0644);
MODULE_PARM_DESC(asked_s, "a request to end counts for so many seconds; 0: forever (7200)");

static struct vsp_probe probe;
static struct vsp_users users;
static struct vsp_asked asked;

static bool process_exit_is_wanted(const struct task_struct *leader, u64 age_ms)
{
	int i;

	if (!n_names)
		return age_ms >= READ_ONCE(min_age_ms);
	for (i = 0; i < n_names; i++) {
		if (!strncmp(leader->comm, names[i], TASK_COMM_LEN - 1))
			return true;
	}
	return false;
}

/* Return the exit code, as wait_task_zombie() in kernel/exit.c does. */
static u32 process_exit_code(const struct task_struct *leader)
{
	const struct signal_struct *signal = leader->signal;

	return signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : leader->exit_code;
}

static int process_exit_on_exit(struct kprobe *kp, struct pt_regs *regs)
{
	struct task_struct *task = (void *)regs_get_kernel_argument(regs, 0);
	bool group_dead = (u32)regs_get_kernel_argument(regs, 1);
	struct vsp_process_exit rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_PROCESS_EXIT },
	};
	const struct task_struct *parent;
	struct task_struct *leader;
	u32 code;

	if (!group_dead || task->flags & PF_KTHREAD)
		return 0;
	leader = task->group_leader;
	rec.age_ms = div_u64(vsp_process_age_ns(leader), NSEC_PER_MSEC);
	if (!process_exit_is_wanted(leader, rec.age_ms) ||
	    !vsp_users_allow(&users, leader, READ_ONCE(max_users_per_s), &rec.left_out))
		return 0;

	code = process_exit_code(leader);
	rec.status = code >> 8 & 0xff;
	rec.sig = code & 0x7f;
	if (code & 0x80)
		rec.flags |= VSP_EXIT_CORE;
	if (tsk_is_oom_victim(task))
		rec.flags |= VSP_EXIT_OOM;
	if (vsp_was_asked(&asked, leader, READ_ONCE(asked_s)))
		rec.flags |= VSP_EXIT_ASKED;
	rec.pid = leader->tgid;
	vsp_copy_comm(rec.comm, leader);
	rcu_read_lock();
	rec.uid = __kuid_val(__task_cred(leader)->uid);
	parent = rcu_dereference(leader->real_parent);
	rec.parent_pid = parent->tgid;
	vsp_copy_comm(rec.parent_comm, parent->group_leader);
	vsp_fill_who(&rec.who, leader);
	rcu_read_unlock();
	vsp_record_write(probe.channel, &rec.rec);
	return 0;
}

NOKPROBE_SYMBOL(process_exit_on_exit);

/* __send_signal_locked(sig, info, t, type, force) */
static int process_exit_on_send_signal(struct kprobe *kp, struct pt_regs *regs)
{
	const struct kernel_siginfo *info = (void *)regs_get_kernel_argument(regs, 1);
	const struct task_struct *target = (void *)regs_get_kernel_argument(regs, 2);
	int sig = regs_get_kernel_argument(regs, 0);

	if (vsp_asks_to_end(sig) && !vsp_is_interrupted())
		vsp_note_asked(&asked, target->group_leader, info);
	return 0;
}

NOKPROBE_SYMBOL(process_exit_on_send_signal);

static struct kprobe kprobes[] = {
	{ .symbol_name = "taskstats_exit", .pre_handler = process_exit_on_exit },
	{ .symbol_name = VSP_SEND_SIGNAL, .pre_handler = process_exit_on_send_signal },
};

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.kprobes = kprobes,
	.n_kprobes = ARRAY_SIZE(kprobes),
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: ends of processes, with status and signal");
MODULE_LICENSE("GPL");
