// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registers a frontend's link to the host.  Probes and their channels stay when
 * the link goes, and are shared again over the next one.
 */

#include <linux/module.h>

#include "core.h"

struct vsp_transport __rcu *vsp_transport;

struct vsp_transport *vsp_transport_locked(void)
{
	return rcu_dereference_protected(vsp_transport, lockdep_is_held(&vsp_lock));
}

void vsp_notify(void)
{
	struct vsp_transport *transport;

	rcu_read_lock();
	transport = rcu_dereference(vsp_transport);
	if (transport)
		transport->ops->notify(transport);
	rcu_read_unlock();
}

static void vsp_transport_disconnect(void)
{
	vsp_image_drop();
	vsp_heartbeat_disconnect();
	vsp_crash_log_disconnect();
	vsp_export_disconnect();
	RCU_INIT_POINTER(vsp_transport, NULL);
}

int vsp_transport_register(struct vsp_transport *transport)
{
	int err;

	vsp_lock_cpus();
	if (vsp_transport_locked()) {
		err = -EBUSY;
		goto unlock;
	}
	vsp_cchan_reset(transport->cchan);
	rcu_assign_pointer(vsp_transport, transport);
	err = vsp_export_connect();
	if (err) {
		vsp_transport_disconnect();
		goto unlock;
	}
	/* If these cannot be shared, records still can. */
	vsp_crash_log_connect();
	vsp_heartbeat_connect();
	transport->cchan->life = vsp_heartbeat_region();
	transport->cchan->nr_cpus = nr_cpu_ids;
unlock:
	vsp_unlock_cpus();
	if (err)
		synchronize_rcu();
	else
		vsp_cchan_kick();	/* the host may have sent a request already */
	return err;
}
EXPORT_SYMBOL_GPL(vsp_transport_register);

void vsp_transport_unregister(struct vsp_transport *transport)
{
	vsp_lock_cpus();
	if (vsp_transport_locked() == transport)
		vsp_transport_disconnect();
	vsp_unlock_cpus();
	/* Wait for probes that are inside ->notify(). */
	synchronize_rcu();
}
EXPORT_SYMBOL_GPL(vsp_transport_unregister);
