// SPDX-License-Identifier: GPL-2.0-only
/* Starts and ends a probe: relay channel, export, kprobes and tracepoints. */

#include <linux/jiffies.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/tracepoint.h>

#include "core.h"

/* Default sub-buffers of a probe: 64 KiB for each CPU, 200 to 400 records. */
#define SUBBUF_SIZE	16384
#define N_SUBBUFS	4

/* -------------------------------------------------------- tracepoints */

static void vsp_probe_compare_tracepoint(struct tracepoint *tp, void *data)
{
	struct vsp_tracepoint *wanted = data;

	if (!strcmp(tp->name, wanted->name))
		wanted->tp = tp;
}

/* Find it by name: most tracepoints are not exported, and some kernels lack some. */
static int vsp_probe_register_tracepoint(struct vsp_tracepoint *tracepoint)
{
	tracepoint->tp = NULL;
	for_each_kernel_tracepoint(vsp_probe_compare_tracepoint, tracepoint);
	if (!tracepoint->tp)
		return -ENOENT;
	return tracepoint_probe_register(tracepoint->tp, tracepoint->func, NULL);
}

/* ------------------------------------------------- hooks of one probe */

static void vsp_probe_unregister_hooks(struct vsp_probe *probe, unsigned int n_kprobes,
				       unsigned int n_tracepoints)
{
	while (n_tracepoints--) {
		struct vsp_tracepoint *tracepoint = &probe->tracepoints[n_tracepoints];

		tracepoint_probe_unregister(tracepoint->tp, tracepoint->func, NULL);
	}
	while (n_kprobes--)
		unregister_kprobe(&probe->kprobes[n_kprobes]);
	/* Wait for handlers that are running. */
	tracepoint_synchronize_unregister();
}

static int vsp_probe_register_hooks(struct vsp_probe *probe)
{
	unsigned int n_kprobes, n_tracepoints = 0;
	int err;

	for (n_kprobes = 0; n_kprobes < probe->n_kprobes; n_kprobes++) {
		err = register_kprobe(&probe->kprobes[n_kprobes]);
		if (err) {
			pr_err("%s: no kprobe on %s: %d\n", probe->name,
			       probe->kprobes[n_kprobes].symbol_name, err);
			goto unregister;
		}
	}
	for (; n_tracepoints < probe->n_tracepoints; n_tracepoints++) {
		err = vsp_probe_register_tracepoint(&probe->tracepoints[n_tracepoints]);
		if (err) {
			pr_err("%s: no tracepoint %s: %d\n", probe->name,
			       probe->tracepoints[n_tracepoints].name, err);
			goto unregister;
		}
	}
	if (probe->attach) {
		err = probe->attach();
		if (err) {
			pr_err("%s: cannot attach: %d\n", probe->name, err);
			goto unregister;
		}
	}
	return 0;

unregister:
	vsp_probe_unregister_hooks(probe, n_kprobes, n_tracepoints);
	return err;
}

/* ---------------------------------------------------------------- API */

bool vsp_limit_allows(struct vsp_limit *limit, unsigned int max_per_s, u32 *left_out)
{
	unsigned long now = jiffies, start = READ_ONCE(limit->start);

	if (!max_per_s)
		goto allow;
	/* Of all callers that find the second over, one starts the next. */
	if (time_after_eq(now, start + HZ) && cmpxchg(&limit->start, start, now) == start)
		atomic_set(&limit->used, 0);
	if (atomic_inc_return(&limit->used) > max_per_s) {
		atomic_inc(&limit->left_out);
		return false;
	}
allow:
	*left_out = atomic_xchg(&limit->left_out, 0);
	return true;
}
EXPORT_SYMBOL_GPL(vsp_limit_allows);

int vsp_probe_start(struct vsp_probe *probe)
{
	int err;

	if (!probe->subbuf_size)
		probe->subbuf_size = SUBBUF_SIZE;
	if (!probe->n_subbufs)
		probe->n_subbufs = N_SUBBUFS;
	probe->channel = relay_open(NULL, NULL, probe->subbuf_size, probe->n_subbufs,
				    &vsp_relay_callbacks, NULL);
	if (!probe->channel) {
		pr_err("%s: no relay channel of %u * %u bytes\n", probe->name,
		       probe->n_subbufs, probe->subbuf_size);
		return -ENOMEM;
	}
	err = vsp_relay_export_start(probe->channel, probe->name);
	if (err) {
		pr_err("%s: cannot export the relay channel: %d\n", probe->name, err);
		goto close;
	}
	err = vsp_probe_register_hooks(probe);
	if (err)
		goto end_export;
	return 0;

end_export:
	vsp_relay_export_end(probe->name);
close:
	relay_close(probe->channel);
	return err;
}
EXPORT_SYMBOL_GPL(vsp_probe_start);

void vsp_probe_end(struct vsp_probe *probe)
{
	if (probe->detach)
		probe->detach();
	vsp_probe_unregister_hooks(probe, probe->n_kprobes, probe->n_tracepoints);
	vsp_relay_export_end(probe->name);
	relay_close(probe->channel);
}
EXPORT_SYMBOL_GPL(vsp_probe_end);
