// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe die: the kernel has an oops, or panics.
 *
 * It uses the die notifier with DIE_OOPS, which __die() (arch/x86/kernel/dumpstack.c)
 * calls when the registers are logged.  And it uses the panic notifier, which panic()
 * calls unless a crash kernel takes over before.  (Linux 5.10 to 7.3)
 *
 * Task, place and trap are recorded here, for rules.  The kernel's messages and stack
 * are in the core's crash log.
 */

#include <linux/kdebug.h>
#include <linux/kernel.h>
#include <linux/notifier.h>
#include <linux/ptrace.h>
#include <linux/sched.h>

#include "vesper.h"

static struct vsp_probe probe;

static void die_record(struct vsp_die *rec, const char *what)
{
	rec->rec.len = sizeof(*rec);
	rec->rec.event = VSP_EVENT_DIE;
	rec->pid = current->pid;
	rec->tgid = current->tgid;
	vsp_copy_comm(rec->comm, current);
	vsp_copy_comm(rec->leader_comm, current->group_leader);
	strscpy(rec->str, what ?: "", sizeof(rec->str));
	vsp_record_write(probe.channel, &rec->rec);
}

static int die_on_oops(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct die_args *args = data;
	struct vsp_die rec = { .kind = VSP_DIE_OOPS };

	if (event != DIE_OOPS)
		return NOTIFY_DONE;
	rec.trapnr = args->trapnr;
	rec.signr = args->signr;
	rec.err = args->err;
	if (args->regs) {
		rec.ip = instruction_pointer(args->regs);
		snprintf(rec.symbol, sizeof(rec.symbol), "%pS", (void *)rec.ip);
	}
	die_record(&rec, args->str);
	return NOTIFY_DONE;
}

static int die_on_panic(struct notifier_block *nb, unsigned long event, void *data)
{
	struct vsp_die rec = { .kind = VSP_DIE_PANIC };

	die_record(&rec, data);
	return NOTIFY_DONE;
}

/* Called before other notifiers, which may reset the machine or wait. */
static struct notifier_block die_nb = { .notifier_call = die_on_oops, .priority = INT_MAX };
static struct notifier_block panic_nb = { .notifier_call = die_on_panic, .priority = INT_MAX };

static int die_attach(void)
{
	int err;

	err = register_die_notifier(&die_nb);
	if (err)
		return err;
	err = atomic_notifier_chain_register(&panic_notifier_list, &panic_nb);
	if (err)
		unregister_die_notifier(&die_nb);
	return err;
}

static void die_detach(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &panic_nb);
	unregister_die_notifier(&die_nb);
}

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.attach = die_attach,
	.detach = die_detach,
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: oopses and panics");
MODULE_LICENSE("GPL");
