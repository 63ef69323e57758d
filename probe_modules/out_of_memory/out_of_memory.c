// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe out_of_memory: who asked, what was short, and which process pays.
 *
 * A kprobe on oom_kill_process(oc, message) in mm/oom_kill.c, not on
 * out_of_memory(): there the victim is not chosen yet.
 */

#include <linux/cgroup.h>
#include <linux/kprobes.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/oom.h>
#include <linux/sched/signal.h>
#include <linux/vmstat.h>

#include "vesper.h"

#define PAGES_TO_KB(pages)	((u64)(pages) << (PAGE_SHIFT - 10))

/* Threads of the victim that are asked for its memory. */
#define MAX_THREADS	256

static unsigned int subbuf_size = 16384;
module_param(subbuf_size, uint, 0444);
MODULE_PARM_DESC(subbuf_size, "bytes of a relay sub-buffer");

static unsigned int n_subbufs = 4;
module_param(n_subbufs, uint, 0444);
MODULE_PARM_DESC(n_subbufs, "number of relay sub-buffers per CPU");

static struct rchan *channel;

static u64 cgroup_of(const struct oom_control *oc)
{
#ifdef CONFIG_MEMCG
	if (oc->memcg)
		return cgroup_ino(oc->memcg->css.cgroup);
#endif
	return 0;
}

/* False if the thread has no memory (any more), or its lock is held. */
static bool fill_memory(struct vsp_out_of_memory *rec, struct task_struct *task)
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

static void fill_victim(struct vsp_out_of_memory *rec, struct task_struct *victim)
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
	vsp_copy_comm(rec->parent_comm, parent);
	/* A main thread that has ended left the memory to the others. */
	for_each_thread(victim, thread) {
		if (fill_memory(rec, thread) || ++count == MAX_THREADS)
			break;
	}
	rcu_read_unlock();
}

/* oom_kill_process() lets such a process finish and kills nobody. */
static bool is_dying(const struct task_struct *victim)
{
	return victim->signal->flags & SIGNAL_GROUP_EXIT ||
	       (victim->flags & PF_EXITING && thread_group_empty((struct task_struct *)victim));
}

static int on_oom_kill_process(struct kprobe *kp, struct pt_regs *regs)
{
	const struct oom_control *oc = (void *)regs_get_kernel_argument(regs, 0);
	struct vsp_out_of_memory rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_OUT_OF_MEMORY },
	};

	/* The second: out_of_memory()'s mark for "no choice". */
	if (!oc->chosen || oc->chosen == (void *)-1UL || is_dying(oc->chosen))
		return 0;

	rec.asker_pid = current->tgid;
	vsp_copy_comm(rec.asker_comm, current);
	rec.order = oc->order;
	rec.constraint = oc->constraint;
	rec.gfp_mask = (__force u32)oc->gfp_mask;
	rec.cgroup_ino = cgroup_of(oc);
	rec.free_kb = PAGES_TO_KB(global_zone_page_state(NR_FREE_PAGES));
	rec.total_kb = PAGES_TO_KB(oc->totalpages);
	fill_victim(&rec, oc->chosen);
	vsp_record_write(channel, &rec.rec);
	return 0;
}

NOKPROBE_SYMBOL(on_oom_kill_process);

static struct kprobe probe = {
	.symbol_name = "oom_kill_process",
	.pre_handler = on_oom_kill_process,
};

static int __init out_of_memory_init(void)
{
	int err;

	BUILD_BUG_ON((int)CONSTRAINT_NONE != VSP_OOM_SYSTEM);
	BUILD_BUG_ON((int)CONSTRAINT_CPUSET != VSP_OOM_CPUSET);
	BUILD_BUG_ON((int)CONSTRAINT_MEMORY_POLICY != VSP_OOM_MEMORY_POLICY);
	BUILD_BUG_ON((int)CONSTRAINT_MEMCG != VSP_OOM_CGROUP);

	channel = relay_open(NULL, NULL, subbuf_size, n_subbufs, &vsp_relay_callbacks, NULL);
	if (!channel) {
		pr_err("out_of_memory: no relay channel of %u * %u bytes\n",
		       n_subbufs, subbuf_size);
		return -ENOMEM;
	}
	err = vsp_relay_export_start(channel, KBUILD_MODNAME);
	if (err) {
		pr_err("out_of_memory: cannot export the relay channel: %d\n", err);
		goto close;
	}
	err = register_kprobe(&probe);
	if (err) {
		pr_err("out_of_memory: no kprobe on %s: %d\n", probe.symbol_name, err);
		goto end_export;
	}
	return 0;

end_export:
	vsp_relay_export_end(KBUILD_MODNAME);
close:
	relay_close(channel);
	return err;
}
module_init(out_of_memory_init);

static void __exit out_of_memory_exit(void)
{
	unregister_kprobe(&probe);
	vsp_relay_export_end(KBUILD_MODNAME);
	relay_close(channel);
}
module_exit(out_of_memory_exit);

MODULE_DESCRIPTION("VESPER probe: the OOM killer, its victim, and for whom");
MODULE_LICENSE("GPL");
