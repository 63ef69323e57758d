// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: breaks the kernel in the way that is written to /proc/vsp_wedge.
 *
 *	oops		touches address 0
 *	irqs		spins on this CPU for ever with interrupts off
 *	timer		a timer's handler on this CPU waits for a lock for ever
 *	preempt		spins on this CPU for ever with preemption off
 *	stall		the same for 20 s
 */

#include <linux/hrtimer.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "vesper_features.h"

static DEFINE_RAW_SPINLOCK(the_lock);
static struct hrtimer timer;

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
	/* Held for ever, by nobody. */
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

static ssize_t wedge_write(struct file *file, const char __user *buf, size_t len, loff_t *offset)
{
	char how[16] = "";

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
