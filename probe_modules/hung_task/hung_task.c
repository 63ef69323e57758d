// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe hung_task: a task has been in uninterruptible sleep for very long.
 *
 * khungtaskd passes the tracepoint sched_process_hang for each task that was in state
 * D for kernel.hung_task_timeout_secs, and again after each further period.  It does
 * so even if kernel.hung_task_warnings is used up.  (check_hung_task() in
 * kernel/hung_task.c, Linux 5.10 to 7.3)
 */

#include <linux/jiffies.h>
#include <linux/mm.h>
#include <trace/events/sched.h>

#include "vesper.h"
#include "vesper_process.h"

static struct vsp_probe probe;

static void hung_task_on_hang(void *data, struct task_struct *task)
{
	struct vsp_hung_task rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_HUNG_TASK },
	};
	const struct task_struct *parent;

	rec.pid = task->pid;
	rec.tgid = task->tgid;
	rec.waited_s = (jiffies - task->last_switch_time) / HZ;
	vsp_copy_comm(rec.comm, task);
	rcu_read_lock();
	vsp_copy_comm(rec.leader_comm, task->group_leader);
	parent = rcu_dereference(task->real_parent);
	rec.parent_pid = parent->tgid;
	vsp_copy_comm(rec.parent_comm, parent->group_leader);
	vsp_fill_who(&rec.who, task->group_leader);
	rcu_read_unlock();
	vsp_record_write(probe.channel, &rec.rec);
}

static struct vsp_tracepoint tracepoints[] = {
	{ .name = "sched_process_hang", .func = hung_task_on_hang },
};

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.tracepoints = tracepoints,
	.n_tracepoints = ARRAY_SIZE(tracepoints),
};

vsp_probe_module();

/* The compiler checks the handler's arguments. */
static inline void __maybe_unused hung_task_check_handlers(void)
{
	check_trace_callback_type_sched_process_hang(hung_task_on_hang);
}

MODULE_DESCRIPTION("VESPER probe: tasks that khungtaskd finds hung");
MODULE_LICENSE("GPL");
