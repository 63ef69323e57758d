// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes records: the hot path of all probes.
 *
 * It is called from kprobe handlers: under any lock, with interrupts off, and in NMI
 * context if the kprobe is a breakpoint.  So it takes no lock.
 *
 * synchronize_rcu() also waits for code that runs with interrupts off (Linux 5.0
 * and later).  So rcu_read_lock() is not needed here.  In a preemptible kernel it
 * would be a function call.
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
 * Publish the write position of a buffer in its index.  On the buffer's CPU, with
 * interrupts off: a record of an interrupt in between would move pos back, and
 * vsp_export_move_index_on_cpu() may replace the index.
 */
static void vsp_record_publish_position(const struct vsp_export *export,
					const struct rchan_buf *buf)
{
	size_t offset = buf->offset;

	if (buf->cpu >= nr_cpu_ids)
		return;
	/* In no-overwrite mode the offset of a full buffer is subbuf_size + 1. */
	if (offset > export->subbuf_size)
		offset = 0;
	/* Pairs with the host, which reads pos before padding and records. */
	virt_wmb();
	WRITE_ONCE(export->cpu[buf->cpu].index->pos,
		   (u64)buf->subbufs_produced * export->subbuf_size + offset);
	/*
	 * The next record may overwrite the oldest ones.  Pairs with the host, which
	 * reads pos again after it has copied records.
	 */
	virt_wmb();
}

/* Relay sets the padding of a sub-buffer when the next one begins. */
static void vsp_record_publish_padding(const struct vsp_export *export, const struct rchan_buf *buf)
{
	unsigned int i;

	if (buf->cpu >= nr_cpu_ids)
		return;
	for (i = 0; i < export->n_subbufs; i++)
		WRITE_ONCE(export->cpu[buf->cpu].index->pad[i], buf->padding[i]);
}

/*
 * Notify the host of new records, unless a notification is already pending.
 * Interrupts off.
 */
static inline void vsp_record_ring_bell(void)
{
	struct vsp_transport *transport = rcu_dereference_sched(vsp_transport);
	u32 *bell;

	if (!transport)
		return;
	bell = &transport->cchan->bell;
	/* Pairs with the host, which arms the bell before it reads pos. */
	virt_mb();
	switch (READ_ONCE(*bell)) {
	case VSP_BELL_RUNG:
		return;
	case VSP_BELL_ARMED:
		/* Of all CPUs that find the bell armed, one notifies. */
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

/* Word by word: memcpy() of some hundred bytes takes longer to start. */
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
	/* vsp_relay_start_subbuf() is not called if the probe has its own callbacks. */
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
 * Overwrite mode: always go on to the next sub-buffer.  Its position is published
 * before the first byte overwrites the oldest records.  The first sub-buffer of a
 * channel has no predecessor, and nothing is published.
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
 * A channel without a file: relay takes any pointer but NULL for success, and does
 * not dereference it (Linux 5.0 and later).  A channel with a file is refused.
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
