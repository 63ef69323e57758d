/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who owns a process, and who has asked it to end.
 *
 * For handlers of probes, in any context and under any lock.  So nothing here takes a
 * lock.  (cgroup_path() does, and on PREEMPT_RT its lock sleeps.)
 *
 * These functions are compiled into each probe, not into the core: a new probe must
 * load beside the core of an older guest package.
 */
#ifndef VESPER_PROCESS_H
#define VESPER_PROCESS_H

#include <linux/audit.h>
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/hash.h>
#include <linux/kernfs.h>
#include <linux/math64.h>
#include <linux/preempt.h>
#include <linux/sched/signal.h>
#include <linux/timekeeping.h>

#include "vesper.h"

/* All signals pass through this function, except those of POSIX timers. */
#ifdef VSP_HAVE_SEND_SIGNAL_LOCKED
#define VSP_SEND_SIGNAL	"__send_signal_locked"
#else
#define VSP_SEND_SIGNAL	"__send_signal"
#endif

/* Number of names of a cgroup's path that are read: users may nest cgroups deeply. */
#define VSP_CGROUP_NAMES	12
/* Without an array of ancestors: the deepest level from which parents are followed. */
#define VSP_CGROUP_DEPTH	256
/* Below that: number of children that are searched on each level. */
#define VSP_MAX_CGROUPS		1024

/* 1 << VSP_USER_BITS limits are shared by all users. */
#define VSP_USER_BITS		4

/* A younger process may only check the configuration of a service. */
#define VSP_YOUNG_NS		(5ULL * NSEC_PER_SEC)
/* Number of processes that one search visits, and of searches in a second. */
#define VSP_MAX_PROCESSES	16384
#define VSP_MAX_SEARCHES	50

/* -------------------------------------------------------------- owner */

static inline u64 vsp_process_age_ns(const struct task_struct *leader)
{
	return ktime_get_mono_fast_ns() - leader->start_time;
}

#ifdef CONFIG_CGROUPS
/*
 * Return the child of @parent that is @cgroup or one of its ancestors, or NULL.
 *
 * Without an array of ancestors, following the parents of a cgroup takes time in
 * proportion to its depth, and users may nest cgroups as deeply as they like.  So
 * from a deep one the search goes down from the root, by the IDs of its ancestors.
 * The upper levels, on which the system's own slices are, have few children.
 */
static inline struct cgroup *vsp_cgroup_next(struct cgroup *parent, struct cgroup *cgroup)
{
#ifndef VSP_HAVE_CGROUP_ANCESTORS
	struct cgroup_subsys_state *child;
	int count = 0;

	if (cgroup->level > VSP_CGROUP_DEPTH) {
		list_for_each_entry_rcu(child, &parent->self.children, sibling) {
			if (cgroup_id(child->cgroup) == cgroup->ancestor_ids[parent->level + 1])
				return child->cgroup;
			if (++count == VSP_MAX_CGROUPS)
				break;
		}
		return NULL;
	}
#endif
	return cgroup_ancestor(cgroup, parent->level + 1);
}

/*
 * Return the name of the next ancestor of @cgroup below *@parent, or NULL if there is
 * none, and move *@parent there.  Cgroups of v2 are never renamed, and are freed after
 * a grace period of RCU.
 */
static inline const char *vsp_cgroup_next_name(struct cgroup **parent, struct cgroup *cgroup)
{
	struct cgroup *next = vsp_cgroup_next(*parent, cgroup);

	if (!next)
		return NULL;
	*parent = next;
	return rcu_dereference(next->kn->name);
}
#endif

/* Copy the path in cgroup v2; a long path is cut off.  It stays "" if unknown. */
static inline void vsp_copy_cgroup(char to[VSP_CGROUP_LEN], struct task_struct *leader)
{
#ifdef CONFIG_CGROUPS
	struct cgroup *cgroup = task_dfl_cgroup(leader);
	struct cgroup *parent = &cgroup->root->cgrp;
	const char *name;
	int level, at = 0;

	to[at++] = '/';
	for (level = 1; level <= VSP_CGROUP_NAMES; level++) {
		name = vsp_cgroup_next_name(&parent, cgroup);
		if (!name)
			break;
		if (level > 1 && at < VSP_CGROUP_LEN - 1)
			to[at++] = '/';
		while (*name && at < VSP_CGROUP_LEN - 1)
			to[at++] = *name++;
	}
	to[at] = '\0';
#endif
}

/*
 * Return whether a user has started the process, as far as the kernel can show.  The
 * host uses the same facts, in struct vsp_who, to decide which processes it believes.
 */
static inline bool vsp_is_users_own(struct task_struct *leader)
{
#ifdef CONFIG_CGROUPS
	struct cgroup *cgroup = task_dfl_cgroup(leader);
	struct cgroup *parent = &cgroup->root->cgrp;
	const char *name;
	int level;

	for (level = 1; level <= VSP_CGROUP_NAMES; level++) {
		name = vsp_cgroup_next_name(&parent, cgroup);
		if (!name)
			break;
		if (!strcmp(name, "user.slice"))
			return true;
	}
#endif
	return uid_valid(audit_get_loginuid(leader)) &&
	       !uid_eq(audit_get_loginuid(leader), GLOBAL_ROOT_UID);
}

/* Under rcu_read_lock(). */
static inline void vsp_fill_who(struct vsp_who *who, struct task_struct *leader)
{
	if (IS_ENABLED(CONFIG_AUDIT)) {
		who->login_uid = __kuid_val(audit_get_loginuid(leader));
		who->known |= VSP_WHO_LOGIN_UID;
	}
	vsp_copy_cgroup(who->cgroup, leader);
	if (who->cgroup[0])
		who->known |= VSP_WHO_CGROUP;
}

/* ----------------------------------------------- limits for each user */

/* Limits for the records of each user's own processes.  Initialise it with zeros. */
struct vsp_users {
	struct vsp_limit limit[1 << VSP_USER_BITS];
};

/*
 * Count a record of a process, and return whether its user's limit allows it.  Without
 * a limit, a user could push records of a service out of the buffer.  Processes that
 * no user has started have no limit.
 */
static inline bool vsp_users_allow(struct vsp_users *users, struct task_struct *leader,
				   unsigned int max_per_s, u32 *left_out)
{
	struct vsp_limit *user = NULL;
	kuid_t uid;

	rcu_read_lock();
	if (vsp_is_users_own(leader)) {
		uid = audit_get_loginuid(leader);
		if (!uid_valid(uid))
			uid = __task_cred(leader)->uid;
		user = &users->limit[hash_32(__kuid_val(uid), VSP_USER_BITS)];
	}
	rcu_read_unlock();
	*left_out = 0;
	return !user || vsp_limit_allows(user, max_per_s, left_out);
}

/* ---------------------------------------------------- an older process */

static inline bool vsp_is_dying(const struct task_struct *leader)
{
	return leader->signal->flags & SIGNAL_GROUP_EXIT ||
	       (leader->flags & PF_EXITING && thread_group_empty((struct task_struct *)leader));
}

static inline bool vsp_has_same_name(const struct task_struct *a, const struct task_struct *b)
{
	return !strncmp(a->comm, b->comm, TASK_COMM_LEN);
}

/* Is @other an older main process of the same name, alive, and not a user's own? */
static inline bool vsp_is_elder(struct task_struct *other, const struct task_struct *leader)
{
	const struct task_struct *parent;

	if (!vsp_has_same_name(other, leader) || other == leader ||
	    other->start_time >= leader->start_time || vsp_is_dying(other))
		return false;
	parent = rcu_dereference(other->real_parent);
	return !vsp_has_same_name(other, parent->group_leader) && !vsp_is_users_own(other);
}

/*
 * Fill in the age of a process.  If it is young and no user's own, also search for an
 * older main process of its name.  Under rcu_read_lock().
 */
static inline void vsp_fill_age(struct vsp_who *who, u64 *age_ms, s32 *elder_pid,
				struct task_struct *leader, struct vsp_limit *searches)
{
	u64 age = vsp_process_age_ns(leader);
	struct task_struct *other;
	int count = 0;
	u32 left_out;

	*age_ms = div_u64(age, NSEC_PER_MSEC);
	who->known |= VSP_WHO_AGE;
	if (age >= VSP_YOUNG_NS) {
		who->known |= VSP_WHO_ELDER;
		return;
	}
	if (vsp_is_users_own(leader) ||
	    !vsp_limit_allows(searches, VSP_MAX_SEARCHES, &left_out))
		return;
	for_each_process(other) {
		if (++count > VSP_MAX_PROCESSES)
			return;
		if (vsp_is_elder(other, leader)) {
			*elder_pid = other->tgid;
			break;
		}
	}
	who->known |= VSP_WHO_ELDER;
}

/* -------------------------------------------------------- asked to end */

#define VSP_ASKED_SLOTS		4096
/*
 * Default of how long a request to end counts, in s.  Systemd waits 90 s before it
 * sends SIGKILL, in Debian's units of databases up to one hour.
 */
#define VSP_ASKED_S		7200

/* A process that init or its parent has asked to end.  Times: CLOCK_MONOTONIC, in ns. */
struct vsp_asked_process {
	u64 start_time;		/* of the process: its PID may be used again */
	u64 asked_at;
};

/*
 * Processes that were asked to end, by their PIDs.  A process replaces an earlier one
 * whose PID differs by a multiple of VSP_ASKED_SLOTS.  Initialise it with zeros.
 */
struct vsp_asked {
	struct vsp_asked_process process[VSP_ASKED_SLOTS];
};

static inline bool vsp_asks_to_end(int sig)
{
	return sig == SIGTERM || sig == SIGINT || sig == SIGQUIT;
}

static inline bool vsp_is_sent_by_process(const struct kernel_siginfo *info)
{
	if (info == SEND_SIG_NOINFO)
		return true;
	return info != SEND_SIG_PRIV && info->si_code <= 0;
}

/*
 * Return whether an interrupt sends the signal, so that "current" is not the sender.
 * If the kprobe is a breakpoint, the handler itself counts as an NMI.
 */
static inline bool vsp_is_interrupted(void)
{
	unsigned long count = preempt_count();

	if (count & NMI_MASK)
		count -= NMI_OFFSET + HARDIRQ_OFFSET;
	/* On PREEMPT_RT softirqs are counted in the task. */
	return count & HARDIRQ_MASK || in_serving_softirq();
}

/* Is "current" init or the parent?  Only valid if vsp_is_interrupted() is false. */
static inline bool vsp_is_sent_from_above(const struct task_struct *leader)
{
	bool is_parent;

	if (is_global_init(current))
		return true;
	rcu_read_lock();
	is_parent = rcu_dereference(leader->real_parent)->tgid == current->tgid;
	rcu_read_unlock();
	return is_parent;
}

/*
 * Note that a signal asks a process to end, if init or its parent sends it.  Users' own
 * processes are not noted: they must not replace those of services.
 */
static inline void vsp_note_asked(struct vsp_asked *asked, struct task_struct *leader,
				  const struct kernel_siginfo *info)
{
	struct vsp_asked_process *slot = &asked->process[leader->tgid % VSP_ASKED_SLOTS];
	bool is_users_own;

	if (!vsp_is_sent_by_process(info) || !vsp_is_sent_from_above(leader))
		return;
	rcu_read_lock();
	is_users_own = vsp_is_users_own(leader);
	rcu_read_unlock();
	if (is_users_own)
		return;
	WRITE_ONCE(slot->asked_at, ktime_get_mono_fast_ns());
	/* Pairs with the smp_load_acquire() in vsp_was_asked(). */
	smp_store_release(&slot->start_time, leader->start_time);
}

/*
 * Return whether a process was asked to end within the last @max_s seconds; 0: at any
 * time.  Some programs live on after such a signal, and may fail much later: a Java
 * virtual machine prints its threads on SIGQUIT.
 */
static inline bool vsp_was_asked(const struct vsp_asked *asked,
				 const struct task_struct *leader, unsigned int max_s)
{
	const struct vsp_asked_process *slot = &asked->process[leader->tgid % VSP_ASKED_SLOTS];

	/* Pairs with the smp_store_release() in vsp_note_asked(). */
	if (smp_load_acquire(&slot->start_time) != leader->start_time)
		return false;
	/* Signed: the clocks of two CPUs may differ a little. */
	return !max_s || (s64)(ktime_get_mono_fast_ns() - READ_ONCE(slot->asked_at)) <
			 (s64)max_s * (s64)NSEC_PER_SEC;
}

#endif /* VESPER_PROCESS_H */
