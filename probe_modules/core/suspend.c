// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hands the guest over to the next host when the hypervisor suspends it: to save it,
 * or to migrate it.
 */

#include <linux/syscore_ops.h>

#include "core.h"

#ifdef VSP_HAVE_SYSCORE_DATA
#define VSP_SYSCORE_ARGUMENT void *data
#else
#define VSP_SYSCORE_ARGUMENT void
#endif

/*
 * Write a value back to where it is, without undoing a concurrent write of the
 * host.  A cmpxchg that fails stores the value it has found (x86).
 */
static void vsp_suspend_rewrite(u64 *place)
{
	sync_cmpxchg(place, 0, 0);
}

/*
 * Mark the guest as suspended, and rewrite each read position of the host.
 *
 * In a live migration the hypervisor may not have noticed that the host wrote to
 * a page of this guest.  It would send an older copy of the page.  A write of the
 * guest itself is always noticed, so the read positions move with the guest.
 *
 * This is the last thing that the kernel does before it is suspended (do_suspend(),
 * drivers/xen/manage.c, Linux 5.10 to 6.12).  One CPU is online, with interrupts
 * off, and no task has stopped in the middle of a change under vsp_lock.
 */
static int vsp_suspend_begin(VSP_SYSCORE_ARGUMENT)
{
	struct vsp_transport *transport = rcu_dereference_raw(vsp_transport);
	unsigned int slot, cpu;

	if (!transport)
		return 0;
	WRITE_ONCE(transport->cchan->asleep, 1);
	/*
	 * Pairs with the host, which reads asleep after it has read records, and
	 * writes read only after that.  What it writes between these two does not
	 * move with the guest: the next host reports those records once more.
	 */
	virt_mb();
	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		struct vsp_export *export = rcu_dereference_raw(vsp_exports[slot]);

		if (!export)
			continue;
		for_each_possible_cpu(cpu)
			vsp_suspend_rewrite(&export->cpu[cpu].index->read);
	}
	return 0;
}

/* Also called if the hypervisor did not suspend the guest. */
static void vsp_suspend_end(VSP_SYSCORE_ARGUMENT)
{
	struct vsp_transport *transport = rcu_dereference_raw(vsp_transport);

	if (transport)
		WRITE_ONCE(transport->cchan->asleep, 0);
}

#ifdef VSP_HAVE_SYSCORE_DATA

static const struct syscore_ops vsp_suspend_syscore_ops = {
	.suspend = vsp_suspend_begin,
	.resume = vsp_suspend_end,
};

static struct syscore vsp_suspend_syscore = { .ops = &vsp_suspend_syscore_ops };

void vsp_suspend_init(void)
{
	register_syscore(&vsp_suspend_syscore);
}

void vsp_suspend_exit(void)
{
	unregister_syscore(&vsp_suspend_syscore);
}

#else

static struct syscore_ops vsp_suspend_syscore_ops = {
	.suspend = vsp_suspend_begin,
	.resume = vsp_suspend_end,
};

void vsp_suspend_init(void)
{
	register_syscore_ops(&vsp_suspend_syscore_ops);
}

void vsp_suspend_exit(void)
{
	unregister_syscore_ops(&vsp_suspend_syscore_ops);
}

#endif
