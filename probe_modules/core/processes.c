// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds the main process of each of a few names.
 *
 * A main process is one whose parent has another name, as in the host's rules.  Of
 * several main processes the oldest is chosen.  A user can give any name to a
 * process, so a user's own process is chosen only if there is no other.
 */

#include <linux/idr.h>
#include <linux/math64.h>
#include <linux/pid_namespace.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/timekeeping.h>

#include "core.h"
#include "vesper_process.h"

/* Number of PIDs that are visited before other tasks may run. */
#define MAX_PIDS_AT_ONCE	512

static bool vsp_processes_is_named(const struct task_struct *leader, const char *name)
{
	return !strncmp(leader->comm, name, VSP_COMM_LEN - 1);
}

/* Under rcu_read_lock(). */
static bool vsp_processes_is_main(const struct task_struct *leader, const char *name)
{
	return vsp_processes_is_named(leader, name) &&
	       !vsp_processes_is_named(rcu_dereference(leader->real_parent)->group_leader, name);
}

/* Under rcu_read_lock(). */
static void vsp_processes_consider(struct vsp_process *found, struct task_struct *leader, u64 now)
{
	u32 flags = vsp_is_users_own(leader) ? VSP_PROCESS_USERS_OWN : 0;
	u64 age_ms = 0;

	if (now > leader->start_time)
		age_ms = div_u64(now - leader->start_time, NSEC_PER_MSEC);
	if (found->pid && (flags > found->flags ||
			   (flags == found->flags && age_ms <= found->age_ms)))
		return;
	found->pid = leader->tgid;
	found->uid = __kuid_val(__task_cred(leader)->uid);
	found->flags = flags;
	found->age_ms = age_ms;
}

/* Under rcu_read_lock(). */
static void vsp_processes_consider_names(struct vsp_msg_processes *reply,
					 struct task_struct *leader, u64 now)
{
	unsigned int i;

	if (leader->flags & PF_KTHREAD || !atomic_read(&leader->signal->live))
		return;
	for (i = 0; i < VSP_MAX_NAMES; i++) {
		struct vsp_process *found = &reply->process[i];

		if (found->name[0] && vsp_processes_is_main(leader, found->name))
			vsp_processes_consider(found, leader, now);
	}
}

/*
 * The walk goes by PIDs, and not by for_each_process(): after a pause it finds its
 * place again, even if processes were created or have ended meanwhile.
 */
void vsp_processes_find(const struct vsp_msg_processes *request, struct vsp_msg_processes *reply)
{
	struct task_struct *leader;
	u64 now = ktime_get_ns();
	struct pid *pid;
	int i, number;

	reply->uptime_ms = div_u64(now, NSEC_PER_MSEC);
	for (i = 0; i < VSP_MAX_NAMES; i++)
		strscpy(reply->process[i].name, request->process[i].name, VSP_COMM_LEN);

	rcu_read_lock();
	for (number = 1, i = 1; (pid = idr_get_next(&init_pid_ns.idr, &number)); number++, i++) {
		leader = pid_task(pid, PIDTYPE_TGID);
		if (leader)
			vsp_processes_consider_names(reply, leader, now);
		if (i % MAX_PIDS_AT_ONCE == 0) {
			rcu_read_unlock();
			cond_resched();
			rcu_read_lock();
		}
	}
	rcu_read_unlock();
}
