// SPDX-License-Identifier: GPL-2.0-only
/*
 * The probes' hot path: from a kprobe handler, with any lock held, interrupts
 * off, possibly in NMI context (a kprobe by breakpoint).  No lock is taken.
 *
 * RCU: synchronize_rcu() waits for sections with interrupts off, too (Linux
 * 5.0 and later), so those need no rcu_read_lock(), which is a call of its own
 * where the kernel is preemptible.
 */

#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#include <linux/timekeeping.h>

#include "core.h"

/* Interrupts off. */
static struct vsp_export *vsp_record_find_export(const struct rchan *rchan)
{
	unsigned int slot;

	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		struct vsp_export *export = rcu_dereference_sched(vsp_exports[slot]);

		if (export && export->rchan == rchan)
			return export;
	}
	return NULL;
}

/*
 * Into the index page.  On the buffer's CPU, interrupts off: one's record in
 * between would move pos back; and see move_index().
 */
static void vsp_record_publish_position(const struct vsp_export *export,
					const struct rchan_buf *buf)
{
	size_t offset = buf->offset;

	if (buf->cpu >= nr_cpu_ids)
		return;
	/* A full buffer in no-overwrite mode: subbuf_size + 1. */
	if (offset > export->subbuf_size)
		offset = 0;
	virt_wmb();	/* record and padding before the position */
	WRITE_ONCE(export->cpu[buf->cpu].index->pos,
		   (u64)buf->subbufs_produced * export->subbuf_size + offset);
	virt_wmb();	/* the position before what overwrites the oldest records */
}

/* Relay writes it only when it leaves a sub-buffer. */
static void vsp_record_publish_padding(const struct vsp_export *export, const struct rchan_buf *buf)
{
	unsigned int i;

	if (buf->cpu >= nr_cpu_ids)
		return;
	for (i = 0; i < export->n_subbufs; i++)
		WRITE_ONCE(export->cpu[buf->cpu].index->pad[i], buf->padding[i]);
}

/*
 * Tell the host of new records, unless it has yet to look for the last.
 * Interrupts off.
 */
static inline void vsp_record_ring_bell(void)
{
	struct vsp_transport *transport = rcu_dereference_sched(vsp_transport);
	u32 *bell;

	if (!transport)
		return;
	bell = &transport->cchan->bell;
	virt_mb();	/* the position before the bell; the host: the opposite */
	switch (READ_ONCE(*bell)) {
	case VSP_BELL_RUNG:
		return;
	case VSP_BELL_ARMED:
		/* One of those who find it armed. */
		if (sync_cmpxchg(bell, VSP_BELL_ARMED, VSP_BELL_RUNG) != VSP_BELL_ARMED)
			return;
	}
	transport->ops->notify(transport);
}

void vsp_update_host_index(struct rchan_buf *buf)
{
	const struct vsp_export *export;
	unsigned long flags;

	if (!buf)
		return;
	local_irq_save(flags);
	export = vsp_record_find_export(buf->chan);
	if (export) {
		vsp_record_publish_padding(export, buf);
		vsp_record_publish_position(export, buf);
		vsp_record_ring_bell();
	}
	local_irq_restore(flags);
}
EXPORT_SYMBOL_GPL(vsp_update_host_index);

/* Word by word: what memcpy() does for long ones takes longer to begin. */
static void vsp_record_copy(u64 *to, const struct vsp_record *rec)
{
	const u64 *from = (const u64 *)rec;
	unsigned int i;

	for (i = 0; i < rec->len / sizeof(*to); i++)
		WRITE_ONCE(to[i], from[i]);
}

void vsp_record_write(struct rchan *rchan, struct vsp_record *rec)
{
	struct vsp_export *export;
	struct rchan_buf *buf;
	unsigned long flags;
	u64 *place;

	local_irq_save(flags);
	export = vsp_record_find_export(rchan);
	if (!export)
		goto out;
	rec->cpu = smp_processor_id();
	rec->seq = export->cpu[rec->cpu].seq++;
	rec->time_ns = ktime_get_mono_fast_ns();
	if (rec->len < sizeof(*rec) || rec->len % 8 || rec->len > export->subbuf_size)
		goto out;
	buf = *this_cpu_ptr(rchan->buf);
	if (!buf)
		goto out;
	place = relay_reserve(rchan, rec->len);
	if (place)
		vsp_record_copy(place, rec);
	/* With callbacks of the probe's own, nobody else does. */
	if (rchan->cb != &vsp_relay_callbacks)
		vsp_record_publish_padding(export, buf);
	vsp_record_publish_position(export, buf);
	vsp_record_ring_bell();
out:
	local_irq_restore(flags);
}
EXPORT_SYMBOL_GPL(vsp_record_write);

/* ---------------------------------------------------- relay callbacks */

/*
 * Overwrite mode.  The host is told of the new sub-buffer before the first
 * byte is written into it, over the oldest records.  At the channel's start
 * (no sub-buffer before this one) there is nothing to tell.
 */
static int vsp_relay_start_subbuf(struct rchan_buf *buf, void *prev_subbuf)
{
	const struct vsp_export *export;
	unsigned long flags;

	if (!prev_subbuf)
		return 1;
	local_irq_save(flags);
	export = vsp_record_find_export(buf->chan);
	if (export) {
		vsp_record_publish_padding(export, buf);
		vsp_record_publish_position(export, buf);
	}
	local_irq_restore(flags);
	return 1;
}

#ifdef VSP_HAVE_RELAY_PREV_PADDING
static int vsp_relay_subbuf_start(struct rchan_buf *buf, void *subbuf, void *prev_subbuf,
				  size_t prev_padding)
{
	return vsp_relay_start_subbuf(buf, prev_subbuf);
}
#else
static int vsp_relay_subbuf_start(struct rchan_buf *buf, void *subbuf, void *prev_subbuf)
{
	return vsp_relay_start_subbuf(buf, prev_subbuf);
}
#endif

/*
 * Without a file, relay takes any other pointer for success and does not look
 * behind it (since Linux 5.0).  With a name it would: refused.
 */
static struct dentry *vsp_relay_create_buf_file(const char *filename, struct dentry *parent,
						umode_t mode, struct rchan_buf *buf, int *is_global)
{
	return filename ? NULL : (struct dentry *)buf;
}

static int vsp_relay_remove_buf_file(struct dentry *dentry)
{
	vsp_export_buffer_closed();
	return 0;
}

VSP_RELAY_CONST struct rchan_callbacks vsp_relay_callbacks = {
	.subbuf_start = vsp_relay_subbuf_start,
	.create_buf_file = vsp_relay_create_buf_file,
	.remove_buf_file = vsp_relay_remove_buf_file,
};
EXPORT_SYMBOL_GPL(vsp_relay_callbacks);
