// SPDX-License-Identifier: GPL-2.0-only
/* VESPER's core: loads probes for the host and shares their records with it. */

#include <linux/cpu.h>
#include <linux/module.h>

#include "core.h"

/* Lock order and what it protects: see core.h. */
DEFINE_MUTEX(vsp_lock);

void vsp_lock_cpus(void)
{
	cpus_read_lock();
	mutex_lock(&vsp_lock);
}

void vsp_unlock_cpus(void)
{
	mutex_unlock(&vsp_lock);
	cpus_read_unlock();
}

static int __init vesper_init(void)
{
	int err;

	err = vsp_loader_init();
	if (err) {
		pr_err("vesper: no private tmpfs to load probes from: %d\n", err);
		return err;
	}

	err = vsp_export_init();
	if (err)
		goto exit_loader;

	err = vsp_crash_log_init();
	if (err)
		goto exit_export;

	err = vsp_heartbeat_init();
	if (err)
		goto exit_crash_log;

	err = vsp_cchan_init();
	if (err)
		goto exit_heartbeat;

	vsp_suspend_init();
	return 0;

exit_heartbeat:
	vsp_heartbeat_exit();
exit_crash_log:
	vsp_crash_log_exit();
exit_export:
	vsp_export_exit();
exit_loader:
	vsp_loader_exit();
	return err;
}
module_init(vesper_init);

/* Probes and frontends use symbols of this module, so they are unloaded by now. */
static void __exit vesper_exit(void)
{
	vsp_suspend_exit();
	vsp_cchan_exit();
	vsp_heartbeat_exit();
	vsp_crash_log_exit();
	vsp_export_exit();
	vsp_loader_exit();
}
module_exit(vesper_exit);

MODULE_DESCRIPTION("VESPER: probes of this kernel, loaded and read by the host");
MODULE_LICENSE("GPL");
