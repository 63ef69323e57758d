/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The API for probe modules.
 *
 * A probe is a kernel module that opens a relay channel, exports it to the host, and
 * writes records into it.  struct vsp_probe does what all probes have in common.  So
 * a probe consists of its handlers and a table of them:
 *
 *	static struct kprobe kprobes[] = {
 *		{ .symbol_name = "function", .pre_handler = on_function },
 *	};	handler: vsp_record_write(probe.channel, &rec.rec);
 *
 *	static struct vsp_probe probe = {
 *		.name = KBUILD_MODNAME,
 *		.kprobes = kprobes,
 *		.n_kprobes = ARRAY_SIZE(kprobes),
 *	};
 *	vsp_probe_module();
 *
 * A probe that needs another relay channel, or several, calls the API itself:
 *
 *	chan = relay_open(NULL, NULL, subbuf_size, n_subbufs,
 *			  &vsp_relay_callbacks, NULL);
 *	vsp_relay_export_start(chan, KBUILD_MODNAME);
 *	register_kprobe(...);		handler: vsp_record_write(chan, &rec);
 *	...
 *	unregister_kprobe(...);
 *	vsp_relay_export_end(KBUILD_MODNAME);
 *	relay_close(chan);
 *
 * A probe also works without a host: its channel is shared as soon as a host
 * connects.  The layout of the records is in vesper_abi.h.
 */
#ifndef VESPER_H
#define VESPER_H

#include <linux/atomic.h>
#include <linux/device/driver.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/relay.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "vesper_abi.h"
#include "vesper_features.h"

/*
 * Callbacks for relay_open().  They select overwrite mode, so that a probe never
 * waits for the host.  The channel has no file in debugfs: relay_open() with a
 * base_filename fails.  A channel with other callbacks can be exported, too.  In
 * no-overwrite mode a buffer that is full stays full.
 */
extern VSP_RELAY_CONST struct rchan_callbacks vsp_relay_callbacks;

/**
 * vsp_relay_export_start - share a relay channel with the host
 * @rchan: from relay_open(): per CPU (not global), at most VSP_MAX_SUBBUFS
 *	   sub-buffers, their size a multiple of 8
 * @modname: the probe module's name; at most VSP_NAME_LEN - 1 characters
 *
 * May sleep.  Call vsp_relay_export_end() before relay_close(@rchan).  If a module is
 * unloaded without that call, the core ends the export.
 *
 * Return: 0, or
 *  -EINVAL: an argument is not as described above;
 *  -E2BIG: a buffer is larger than VSP_MAX_REGION_PAGES pages;
 *  -EEXIST: the channel or the name is exported already;
 *  -ENOSPC: VSP_MAX_CHANNELS channels are exported, or the hypervisor has no
 *	     more grants;
 *  -ENOMEM.
 */
int vsp_relay_export_start(struct rchan *rchan, const char *modname);

/**
 * vsp_relay_export_end - stop sharing a relay channel
 * @modname: as given to vsp_relay_export_start()
 *
 * May sleep.  Pages that the host still maps stay allocated until it unmaps them.
 * If the name is not exported, a warning is logged.
 */
void vsp_relay_export_end(const char *modname);

/**
 * vsp_update_host_index - publish how far a buffer is filled, notify the host
 * @buf: buffer of an exported channel, after a record was written into it
 *
 * Call it on the CPU that @buf belongs to, in any context, under any lock.
 * Does nothing for a buffer whose channel is not exported.
 */
void vsp_update_host_index(struct rchan_buf *buf);

/**
 * vsp_record_write - write one record and notify the host
 * @rchan: an exported channel; if it is not exported, nothing is written
 * @rec: start of the record.  The caller sets len and event; cpu, seq and time_ns
 *	 are set here.
 *
 * In any context, under any lock: for kprobe handlers.  A record is not written if
 * its len is not a multiple of 8, or does not fit into a sub-buffer.  The host sees
 * a gap in seq then.
 */
void vsp_record_write(struct rchan *rchan, struct vsp_record *rec);

/**
 * struct vsp_tracepoint - a tracepoint of the kernel itself (not of a module)
 * @name: as in /sys/kernel/tracing/events
 * @func: void func(void *data, the tracepoint's arguments); let the compiler check
 *	  it by check_trace_callback_type_NAME() of trace/events/
 * @tp: set by vsp_probe_start()
 */
struct vsp_tracepoint {
	const char *name;
	void *func;
	struct tracepoint *tp;
};

/**
 * struct vsp_probe - a probe with one relay channel
 * @name: KBUILD_MODNAME
 * @kprobes: registered in this order
 * @n_kprobes: number of @kprobes
 * @tracepoints: registered after the kprobes
 * @n_tracepoints: number of @tracepoints
 * @attach: registers other hooks, as the last step of vsp_probe_start().  May sleep.
 *	    Returns 0 or -errno.  Optional.
 * @detach: undoes @attach, as the first step of vsp_probe_end().  Optional.
 * @subbuf_size: bytes; 0: the core's default
 * @n_subbufs: number of sub-buffers; 0: the core's default
 * @channel: set by vsp_probe_start(); valid while a hook can fire
 */
struct vsp_probe {
	const char *name;
	struct kprobe *kprobes;
	unsigned int n_kprobes;
	struct vsp_tracepoint *tracepoints;
	unsigned int n_tracepoints;
	int (*attach)(void);
	void (*detach)(void);
	unsigned int subbuf_size;
	unsigned int n_subbufs;
	struct rchan *channel;
};

/**
 * vsp_probe_start - open the channel, export it, register the hooks
 * @probe: the probe
 *
 * May sleep.  If a step fails, the earlier steps are undone, and the failed step is
 * logged.
 *
 * Return: 0, or the error of relay_open() (-ENOMEM), vsp_relay_export_start(),
 * register_kprobe(), of the tracepoint (-ENOENT: this kernel has none of that name)
 * or of @attach.
 */
int vsp_probe_start(struct vsp_probe *probe);

/**
 * vsp_probe_end - undo a successful vsp_probe_start()
 * @probe: the probe
 *
 * May sleep.  When it returns, no handler is running.
 */
void vsp_probe_end(struct vsp_probe *probe);

/**
 * struct vsp_limit - limits the number of records in a second
 *
 * Initialise it with zeros.
 */
struct vsp_limit {
	unsigned long start;	/* of the present second, in jiffies */
	atomic_t used;
	atomic_t left_out;
};

/**
 * vsp_limit_allows - count a record, and check it against the limit
 * @limit: the limit of the probe
 * @max_per_s: records that are allowed in a second; 0: all
 * @left_out: set if the record is allowed: how many records were not allowed since
 *	      the last one that was
 *
 * In any context, under any lock.
 *
 * Return: whether the record is allowed.
 */
bool vsp_limit_allows(struct vsp_limit *limit, unsigned int max_per_s, u32 *left_out);

/*
 * Define init, exit and the common parameters of a module that is one probe.  Its
 * struct vsp_probe must be called "probe".
 */
#define vsp_probe_module()	vsp_probe_module_by(vsp_probe_start, vsp_probe_end)

/* As vsp_probe_module(), with other functions to start and end the probe. */
#define vsp_probe_module_by(start, end)						\
	module_param_named(subbuf_size, probe.subbuf_size, uint, 0444);		\
	MODULE_PARM_DESC(subbuf_size, "bytes of a relay sub-buffer (16384)");	\
	module_param_named(n_subbufs, probe.n_subbufs, uint, 0444);		\
	MODULE_PARM_DESC(n_subbufs, "number of relay sub-buffers per CPU (4)");	\
	module_driver(probe, start, end)

/* Copy a task's comm without its lock, which a handler's caller may hold. */
static inline void vsp_copy_comm(char to[VSP_COMM_LEN], const struct task_struct *task)
{
	BUILD_BUG_ON(VSP_COMM_LEN != TASK_COMM_LEN);
	memcpy(to, task->comm, VSP_COMM_LEN);
	to[VSP_COMM_LEN - 1] = '\0';
}

#endif /* VESPER_H */
