/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The API for probe modules.
 *
 * A probe is a kernel module that opens a relay channel, exports it to the
 * host, and writes records into it.  What all probes do alike is done by
 * struct vsp_probe, so that a probe is its handlers and a table of them:
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
 * One that needs another relay channel, or several, does it by hand:
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
 * It works without a host too: the channel is shared as soon as there is one.
 * What is in the records is in vesper_abi.h.
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
 * For relay_open(): overwrite mode, so that a probe never waits for the host,
 * and no file: the channel must not show up in debugfs (relay_open() with a
 * base_filename fails).  A channel with callbacks of the probe's own can be
 * exported as well; in no-overwrite mode it stays full once it is.
 */
extern VSP_RELAY_CONST struct rchan_callbacks vsp_relay_callbacks;

/**
 * vsp_relay_export_start - share a relay channel with the host
 * @rchan: from relay_open(): per CPU (not global), at most VSP_MAX_SUBBUFS
 *	   sub-buffers, their size a multiple of 8
 * @modname: the probe module's name; at most VSP_NAME_LEN - 1 characters
 *
 * May sleep.  Before relay_close(@rchan) vsp_relay_export_end() must be called.
 * A module that is unloaded without it is cleaned up after.
 *
 * Return: 0, or
 *  -EINVAL: an argument does not hold to the above;
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
 * May sleep.  Pages that the host has still mapped stay allocated until it
 * unmaps them.  A name that is not exported gives a line in the kernel's log.
 */
void vsp_relay_export_end(const char *modname);

/**
 * vsp_update_host_index - tell the host how far a buffer is filled
 * @buf: buffer of an exported channel, after a record was written into it
 *
 * Runs on the CPU that @buf belongs to, in any context, under any lock.
 * Does nothing for a buffer whose channel is not exported.
 */
void vsp_update_host_index(struct rchan_buf *buf);

/**
 * vsp_record_write - write one record and tell the host
 * @rchan: an exported channel (if it is not: does nothing)
 * @rec: start of the record; len and event are set; cpu, seq and time_ns are
 *	 filled in here
 *
 * In any context, under any lock: for kprobe handlers.  A record whose len is
 * not a multiple of 8 or does not fit into a sub-buffer is not written and
 * shows at the host as a gap in seq.
 */
void vsp_record_write(struct rchan *rchan, struct vsp_record *rec);

/**
 * struct vsp_tracepoint - a tracepoint of the kernel itself (not of a module)
 * @name: as in /sys/kernel/tracing/events
 * @func: void func(void *data, the tracepoint's arguments); compare them with
 *	  check_trace_callback_type_NAME() of trace/events/
 * @tp: filled in by vsp_probe_start()
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
 * @n_kprobes: how many
 * @tracepoints: registered after the kprobes
 * @n_tracepoints: how many
 * @attach: for hooks of another kind; the last step of the start.  May sleep.
 *	    0 or -errno; optional
 * @detach: the opposite, the first step of the end; optional
 * @subbuf_size: bytes; 0: the core's choice
 * @n_subbufs: 0: the core's choice
 * @channel: filled in by vsp_probe_start(); there while a hook can fire
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
 * @probe: what
 *
 * May sleep.  If it fails everything is as before, and the kernel's log says
 * which step it was.
 *
 * Return: 0, or the error of relay_open() (-ENOMEM), vsp_relay_export_start(),
 * register_kprobe(), of the tracepoint (-ENOENT: this kernel has none of that
 * name) or of @attach.
 */
int vsp_probe_start(struct vsp_probe *probe);

/**
 * vsp_probe_end - the opposite of vsp_probe_start(), which has succeeded
 * @probe: what
 *
 * May sleep.  No handler runs any more when it returns.
 */
void vsp_probe_end(struct vsp_probe *probe);

/**
 * struct vsp_limit - a limit to the records in a second; zeroed at first
 */
struct vsp_limit {
	unsigned long start;	/* of the present second, jiffies */
	atomic_t used;
	atomic_t left_out;
};

/**
 * vsp_limit_allows - is one more record within the limit?
 * @limit: the probe's
 * @max_per_s: so many are
 * @left_out: if it is: how many were not since the last that was
 *
 * In any context, under any lock.
 */
bool vsp_limit_allows(struct vsp_limit *limit, unsigned int max_per_s, u32 *left_out);

/*
 * A module that is one probe, its struct vsp_probe of the name "probe": init,
 * exit, and the parameters that all of them have.
 */
#define vsp_probe_module()	vsp_probe_module_by(vsp_probe_start, vsp_probe_end)

/* The same with functions of its own in place of those. */
#define vsp_probe_module_by(start, end)						\
	module_param_named(subbuf_size, probe.subbuf_size, uint, 0444);		\
	MODULE_PARM_DESC(subbuf_size, "bytes of a relay sub-buffer (16384)");	\
	module_param_named(n_subbufs, probe.n_subbufs, uint, 0444);		\
	MODULE_PARM_DESC(n_subbufs, "number of relay sub-buffers per CPU (4)");	\
	module_driver(probe, start, end)

/* For handlers: get_task_comm() takes a lock that may be held there. */
static inline void vsp_copy_comm(char to[VSP_COMM_LEN], const struct task_struct *task)
{
	BUILD_BUG_ON(VSP_COMM_LEN != TASK_COMM_LEN);
	memcpy(to, task->comm, VSP_COMM_LEN);
	to[VSP_COMM_LEN - 1] = '\0';
}

#endif /* VESPER_H */
