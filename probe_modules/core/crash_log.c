// SPDX-License-Identifier: GPL-2.0-only
/*
 * Crash log: on an oops or a panic, saves the message, the stack and the end of
 * the kernel's log.  The host can read them even after this kernel has died.
 *
 * A panic is saved by the first panic notifier, after panic() has stopped the other
 * CPUs.  A later notifier may end this kernel: that of pvpanic notifies QEMU, which
 * stops the guest at once.  An oops is saved at its end, from kmsg_dump().
 *
 * If a crash kernel is loaded, panic() starts it before the notifiers, unless
 * crash_kexec_post_notifiers is set.  Then there is no crash log of the panic.
 *
 * Nothing here waits, takes a lock, or allocates memory.
 */

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/kmsg_dump.h>
#include <linux/kprobes.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/vmalloc.h>

#include "core.h"

#define STACK_DEPTH	32
#define CRASH_LOG_PAGES	DIV_ROUND_UP(sizeof(struct vsp_words), PAGE_SIZE)

static struct vsp_words __rcu *crash_log;		/* where CPUs write */
static struct vsp_shared crash_log_shared;		/* under vsp_lock */

/* 1 while a slot is being written. */
static atomic_t writing[VSP_WORDS_KINDS];

static void vsp_crash_log_write_stack(char *text, size_t size)
{
	unsigned long entry[STACK_DEPTH];
	unsigned int i, n;
	size_t len = 0;

	n = stack_trace_save(entry, STACK_DEPTH, 0);
	text[0] = '\0';
	for (i = 0; i < n; i++)
		len += scnprintf(text + len, size - len, "%pS\n", (void *)entry[i]);
}

static void vsp_crash_log_write_slot(struct vsp_words_slot *slot, const char *message)
{
	u32 seq = slot->seq;

	WRITE_ONCE(slot->seq, seq + 1);
	/* Pairs with the host, which reads seq again after it has copied the slot. */
	virt_wmb();
	slot->time_ns = ktime_get_mono_fast_ns();
	slot->cpu = raw_smp_processor_id();
	slot->pid = current->pid;
	vsp_copy_comm(slot->comm, current);
	strscpy(slot->message, message, sizeof(slot->message));
	vsp_crash_log_write_stack(slot->stack, sizeof(slot->stack));
	WRITE_ONCE(slot->log_len, 0);
	WRITE_ONCE(slot->log_len, vsp_klog_end(slot->log, sizeof(slot->log)));
	/* Pairs with the host, which reads seq before it copies the slot. */
	virt_wmb();
	WRITE_ONCE(slot->seq, seq + 2);
}

static void vsp_crash_log_write(enum vsp_words_kind kind, const char *message)
{
	/* Two CPUs may oops at the same time: the first one is saved. */
	if (atomic_cmpxchg(&writing[kind], 0, 1))
		return;
	rcu_read_lock();
	vsp_crash_log_write_slot(&rcu_dereference(crash_log)->slot[kind], message);
	rcu_read_unlock();
	atomic_set_release(&writing[kind], 0);
	vsp_notify();
}

/* Only one CPU panics.  It may call this from two hooks: the first one counts. */
static void vsp_crash_log_write_panic(const char *message)
{
	static bool left;

	if (left)
		return;
	left = true;
	vsp_crash_log_write(VSP_WORDS_PANIC, message);
}

static int vsp_crash_log_panic_notify(struct notifier_block *nb, unsigned long event, void *message)
{
	vsp_crash_log_write_panic(message);
	return NOTIFY_DONE;
}

static struct notifier_block panic_nb = {
	.notifier_call = vsp_crash_log_panic_notify,
	.priority = INT_MAX,
};

/*
 * In Linux 6.1 and later the notifier of pvpanic has the same priority.  Of equal
 * priorities the one registered first is called first.  If pvpanic is loaded before
 * this module, a kprobe on its notifier saves the crash log in time.  If it is
 * loaded later, register_kprobe() fails, and the notifier above comes first.
 */
static int vsp_crash_log_pvpanic_entered(struct kprobe *kp, struct pt_regs *regs)
{
	vsp_crash_log_write_panic((const char *)regs_get_kernel_argument(regs, 2));
	return 0;
}

static struct kprobe pvpanic_kp = {
	.symbol_name = "pvpanic_panic_notify",
	.pre_handler = vsp_crash_log_pvpanic_entered,
};

static bool pvpanic_probed;

static void vsp_crash_log_write_oops(enum kmsg_dump_reason reason)
{
	if (reason == KMSG_DUMP_OOPS)
		vsp_crash_log_write(VSP_WORDS_OOPS, "");
}

#if defined(VSP_HAVE_KMSG_DUMP_DETAIL)
static void vsp_crash_log_dump(struct kmsg_dumper *dumper, struct kmsg_dump_detail *detail)
{
	vsp_crash_log_write_oops(detail->reason);
}
#elif defined(VSP_HAVE_KMSG_DUMPER_ITER)
static void vsp_crash_log_dump(struct kmsg_dumper *dumper, enum kmsg_dump_reason reason,
			       struct kmsg_dumper_iter *iter)
{
	vsp_crash_log_write_oops(reason);
}
#else
static void vsp_crash_log_dump(struct kmsg_dumper *dumper, enum kmsg_dump_reason reason)
{
	vsp_crash_log_write_oops(reason);
}
#endif

static struct kmsg_dumper dumper = {
	.dump = vsp_crash_log_dump,
	.max_reason = KMSG_DUMP_OOPS,
};

static void vsp_crash_log_write_head(struct vsp_words *head)
{
	head->magic = VSP_WORDS_MAGIC;
	head->version = VSP_WORDS_VERSION;
}

/* A slot that an oops changes during the move is copied once more afterwards. */
static void vsp_crash_log_move(struct vsp_shared *shared, void *to)
{
	struct vsp_words *old = shared->addr, *new = to;
	u32 seq[VSP_WORDS_KINDS];
	unsigned int kind;

	for (kind = 0; kind < VSP_WORDS_KINDS; kind++)
		seq[kind] = READ_ONCE(old->slot[kind].seq);
	memcpy(new, old, sizeof(*new));
	vsp_crash_log_write_head(new);
	rcu_assign_pointer(crash_log, new);
	synchronize_rcu();
	for (kind = 0; kind < VSP_WORDS_KINDS; kind++) {
		struct vsp_words_slot *slot = &old->slot[kind];

		if ((seq[kind] & 1 || READ_ONCE(slot->seq) != seq[kind]) &&
		    READ_ONCE(new->slot[kind].seq) == seq[kind])
			memcpy(&new->slot[kind], slot, sizeof(*slot));
	}
}

void vsp_crash_log_connect(void)
{
	int err = vsp_shared_connect(&crash_log_shared);

	if (err)
		pr_warn("vesper: cannot share the crash log: %d\n", err);
}

void vsp_crash_log_disconnect(void)
{
	vsp_shared_disconnect(&crash_log_shared);
}

struct vsp_region vsp_crash_log_region(void)
{
	return crash_log_shared.region;
}

int vsp_crash_log_init(void)
{
	struct vsp_words *home;
	int err;

	home = vzalloc(CRASH_LOG_PAGES * PAGE_SIZE);
	if (!home)
		return -ENOMEM;
	vsp_crash_log_write_head(home);
	RCU_INIT_POINTER(crash_log, home);
	mutex_lock(&vsp_lock);
	err = vsp_shared_init_vmalloc(&crash_log_shared, home, CRASH_LOG_PAGES, false,
				      vsp_crash_log_move);
	mutex_unlock(&vsp_lock);
	if (err)
		goto free;
	err = kmsg_dump_register(&dumper);
	if (err)
		goto release;
	atomic_notifier_chain_register(&panic_notifier_list, &panic_nb);
	pvpanic_probed = !register_kprobe(&pvpanic_kp);
	return 0;

release:
	mutex_lock(&vsp_lock);
	vsp_shared_release(&crash_log_shared);
	mutex_unlock(&vsp_lock);
free:
	vfree(home);
	return err;
}

void vsp_crash_log_exit(void)
{
	void *home = crash_log_shared.home;

	if (pvpanic_probed)
		unregister_kprobe(&pvpanic_kp);
	atomic_notifier_chain_unregister(&panic_notifier_list, &panic_nb);
	kmsg_dump_unregister(&dumper);	/* waits for one that runs */
	mutex_lock(&vsp_lock);
	vsp_shared_release(&crash_log_shared);
	mutex_unlock(&vsp_lock);
	vfree(home);
}
