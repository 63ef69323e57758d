// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe out_of_memory: the OOM killer kills a process.
 *
 * It records who asked for memory, under which constraint, and the victim.  It uses a
 * kprobe on oom_kill_process(oc, message) in mm/oom_kill.c.  In out_of_memory() the
 * victim is not chosen yet.
 */

#include <linux/cgroup.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/oom.h>
#include <linux/sched/signal.h>
#include <linux/vmstat.h>

#include "vesper.h"
#include "vesper_process.h"

#define PAGES_TO_KB(pages)	((u64)(pages) << (PAGE_SHIFT - 10))

/* Number of threads of the victim that are searched for its memory. */
#define MAX_THREADS	256

static_assert((int)CONSTRAINT_NONE == VSP_OOM_SYSTEM);
static_assert((int)CONSTRAINT_CPUSET == VSP_OOM_CPUSET);
static_assert((int)CONSTRAINT_MEMORY_POLICY == VSP_OOM_MEMORY_POLICY);
static_assert((int)CONSTRAINT_MEMCG == VSP_OOM_CGROUP);

/* A user can exhaust memory cgroups as fast as he can fork. */
static unsigned int max_users_per_s = 10;
module_param(max_users_per_s, uint, 0644);
MODULE_PARM_DESC(max_users_per_s, "record at most so many in a second that kill one user's own within a limit of its own (10)");

static struct vsp_probe probe;
static struct vsp_users users;
static struct vsp_limit searches;

static u64 out_of_memory_cgroup(const struct oom_control *oc)
{
#ifdef CONFIG_MEMCG
	if (oc->memcg)
		return cgroup_ino(oc->memcg->css.cgroup);
#endif
	return 0;
}

/* Return false if the thread has no memory, or if its lock is held. */
static bool out_of_memory_fill_memory(struct vsp_out_of_memory *rec, struct task_struct *task)
{
	struct mm_struct *mm;

	if (!spin_trylock(&task->alloc_lock))
		return false;
	mm = task->mm;
	if (mm) {
		rec->total_vm_kb = PAGES_TO_KB(mm->total_vm);
		rec->anon_rss_kb = PAGES_TO_KB(get_mm_counter(mm, MM_ANONPAGES));
		rec->file_rss_kb = PAGES_TO_KB(get_mm_counter(mm, MM_FILEPAGES));
		rec->shmem_rss_kb = PAGES_TO_KB(get_mm_counter(mm, MM_SHMEMPAGES));
		rec->pgtables_kb = mm_pgtables_bytes(mm) >> 10;
	}
	spin_unlock(&task->alloc_lock);
	return mm;
}

static void out_of_memory_fill_victim(struct vsp_out_of_memory *rec, struct task_struct *victim)
{
	struct task_struct *parent, *thread;
	int count = 0;

	rcu_read_lock();
	rec->pid = victim->tgid;
	rec->uid = __kuid_val(__task_cred(victim)->uid);
	rec->oom_score_adj = victim->signal->oom_score_adj;
	vsp_copy_comm(rec->comm, victim->group_leader);
	parent = rcu_dereference(victim->real_parent);
	rec->parent_pid = parent->tgid;
	/* A thread of another name may have forked it. */
	vsp_copy_comm(rec->parent_comm, parent->group_leader);
	vsp_fill_who(&rec->who, victim->group_leader);
	vsp_fill_age(&rec->who, &rec->age_ms, &rec->elder_pid, victim->group_leader, &searches);
	/* If the main thread has ended, only other threads have the memory. */
	for_each_thread(victim, thread) {
		if (out_of_memory_fill_memory(rec, thread) || ++count == MAX_THREADS)
			break;
	}
	rcu_read_unlock();
}

/* If the whole system lacks memory, all kills are recorded. */
static bool out_of_memory_is_within_limits(const struct oom_control *oc, u32 *left_out)
{
	return oc->constraint == CONSTRAINT_NONE ||
	       vsp_users_allow(&users, oc->chosen->group_leader, READ_ONCE(max_users_per_s),
			       left_out);
}

static int out_of_memory_on_kill(struct kprobe *kp, struct pt_regs *regs)
{
	const struct oom_control *oc = (void *)regs_get_kernel_argument(regs, 0);
	struct vsp_out_of_memory rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_OUT_OF_MEMORY },
	};

	/* -1UL: out_of_memory() has aborted its search. */
	if (!oc->chosen || oc->chosen == (void *)-1UL)
		return 0;
	/* oom_kill_process() kills nobody if the victim is dying already. */
	if (vsp_is_dying(oc->chosen) || !out_of_memory_is_within_limits(oc, &rec.left_out))
		return 0;

	rec.asker_pid = current->tgid;
	vsp_copy_comm(rec.asker_comm, current);
	rec.order = oc->order;
	rec.constraint = oc->constraint;
	rec.gfp_mask = (__force u32)oc->gfp_mask;
	rec.cgroup_ino = out_of_memory_cgroup(oc);
	rec.free_kb = PAGES_TO_KB(global_zone_page_state(NR_FREE_PAGES));
	rec.total_kb = PAGES_TO_KB(oc->totalpages);
	out_of_memory_fill_victim(&rec, oc->chosen);
	vsp_record_write(probe.channel, &rec.rec);
	return 0;
}

NOKPROBE_SYMBOL(out_of_memory_on_kill);

static struct kprobe kprobes[] = {
	{ .symbol_name = "oom_kill_process", .pre_handler = out_of_memory_on_kill },
};

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.kprobes = kprobes,
	.n_kprobes = ARRAY_SIZE(kprobes),
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: the OOM killer, its victim, and for whom");
MODULE_LICENSE("GPL");
