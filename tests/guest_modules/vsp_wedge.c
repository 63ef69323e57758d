// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: breaks the kernel in the way that is written to /proc/vsp_wedge.
 *
 *	oops		writes to address 0
 *	irqs		spins on this CPU forever with interrupts off
 *	timer		a timer's handler on this CPU waits for a lock forever
 *	preempt		spins on this CPU forever with preemption off
 *	stall		spins on this CPU for 20 s with preemption off
 *	umount PATH	locks the file system there, as an umount does that waits for a disk
 *	release		unlocks it
 */

#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/proc_fs.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "vesper_features.h"

static DEFINE_RAW_SPINLOCK(the_lock);
static struct hrtimer timer;
static DECLARE_COMPLETION(released);

static noinline void wedge_oops(void)
{
	int *nowhere = NULL;

	OPTIMIZER_HIDE_VAR(nowhere);
	*nowhere = 1;
}

static enum hrtimer_restart wedge_deadlock(struct hrtimer *unused)
{
	raw_spin_lock(&the_lock);
	return HRTIMER_NORESTART;
}

static void wedge_timer(void)
{
	/* Never released. */
	raw_spin_lock(&the_lock);
	hrtimer_setup(&timer, wedge_deadlock, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	hrtimer_start(&timer, 0, HRTIMER_MODE_REL_PINNED_HARD);
	preempt_enable();	/* raw_spin_lock()'s */
}

static void wedge_stall(void)
{
	u64 end = ktime_get_mono_fast_ns() + 20ull * NSEC_PER_SEC;

	preempt_disable();
	while (ktime_get_mono_fast_ns() < end)
		cpu_relax();
	preempt_enable();
}

static int wedge_umount(const char *name)
{
	struct path path;
	int err;

	err = kern_path(name, LOOKUP_FOLLOW, &path);
	if (err)
		return err;
	down_write(&path.mnt->mnt_sb->s_umount);
	wait_for_completion(&released);
	up_write(&path.mnt->mnt_sb->s_umount);
	path_put(&path);
	return 0;
}

static ssize_t wedge_write(struct file *file, const char __user *buf, size_t len, loff_t *offset)
{
	char how[64] = "";

	if (copy_from_user(how, buf, min(len, sizeof(how) - 1)))
		return -EFAULT;
	how[strcspn(how, "\n")] = '\0';
	if (!strcmp(how, "oops")) {
		wedge_oops();
	} else if (!strcmp(how, "irqs")) {
		local_irq_disable();
		for (;;)
			cpu_relax();
	} else if (!strcmp(how, "timer")) {
		wedge_timer();
	} else if (!strcmp(how, "preempt")) {
		preempt_disable();
		for (;;)
			cpu_relax();
	} else if (!strcmp(how, "stall")) {
		wedge_stall();
	} else if (!strncmp(how, "umount ", 7)) {
		int err = wedge_umount(how + 7);

		if (err)
			return err;
	} else if (!strcmp(how, "release")) {
		complete(&released);
	} else {
		return -EINVAL;
	}
	return len;
}

static const struct proc_ops wedge_ops = { .proc_write = wedge_write };

static int __init wedge_init(void)
{
	return proc_create("vsp_wedge", 0200, NULL, &wedge_ops) ? 0 : -ENOMEM;
}
module_init(wedge_init);

static void __exit wedge_exit(void)
{
	remove_proc_entry("vsp_wedge", NULL);
}
module_exit(wedge_exit);

MODULE_DESCRIPTION("VESPER tests: ways to break a kernel");
MODULE_LICENSE("GPL");
