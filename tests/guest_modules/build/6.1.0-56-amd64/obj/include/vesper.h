/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The API for probe modules.
 *
 * A probe is a kernel module that opens a relay channel, exports it to the
 * host, and writes records into it:
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

#include <linux/relay.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/version.h>

#include "vesper_abi.h"

/* relay_open() takes constant callbacks since Linux 5.11. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
#define VSP_RELAY_CONST const
#else
#define VSP_RELAY_CONST
#endif

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

/* For handlers: get_task_comm() takes a lock that may be held there. */
static inline void vsp_copy_comm(char to[VSP_COMM_LEN], const struct task_struct *task)
{
	BUILD_BUG_ON(VSP_COMM_LEN != TASK_COMM_LEN);
	memcpy(to, task->comm, VSP_COMM_LEN);
	to[VSP_COMM_LEN - 1] = '\0';
}

#endif /* VESPER_H */
