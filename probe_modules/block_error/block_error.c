// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe block_error: a request to a block device failed.
 *
 * It uses the tracepoint block_rq_error (Linux 5.18 and later), where the kernel logs
 * "I/O error, dev ...": blk_update_request() in block/blk-mq.c.  Older kernels have
 * block_rq_complete, which every request passes; here it is filtered by the same
 * conditions as there.  Device mapper and md have no requests of their own: errors of
 * the devices beneath them are recorded.
 */

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <trace/events/block.h>

#include "vesper.h"

/* A dead disk fails thousands of requests in a second. */
static unsigned int max_per_s = 20;
module_param(max_per_s, uint, 0644);
MODULE_PARM_DESC(max_per_s, "record at most so many in a second; 0: all (20)");

static struct vsp_probe probe;

static struct vsp_limit limit;

static u32 block_error_operation(const struct request *rq)
{
	switch (req_op(rq)) {
	case REQ_OP_READ:
		return VSP_BLOCK_READ;
	case REQ_OP_WRITE:
		return VSP_BLOCK_WRITE;
	case REQ_OP_FLUSH:
		return VSP_BLOCK_FLUSH;
	case REQ_OP_DISCARD:
		return VSP_BLOCK_DISCARD;
	default:
		return VSP_BLOCK_OTHER;
	}
}

static const struct gendisk *block_error_disk(const struct request *rq)
{
#ifdef VSP_HAVE_REQUEST_RQ_DISK
	return rq->rq_disk;
#else
	return rq->q->disk;
#endif
}

static void block_error_record(struct request *rq, int error, unsigned int nr_bytes)
{
	struct vsp_block_error rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_BLOCK_ERROR },
		.op = block_error_operation(rq),
		.sector = blk_rq_pos(rq),
		.bytes = nr_bytes,
		.error = abs(error),
	};
	const struct gendisk *disk = block_error_disk(rq);

	if (!vsp_limit_allows(&limit, READ_ONCE(max_per_s), &rec.left_out))
		return;
	if (disk) {
		rec.dev = MKDEV(disk->major, disk->first_minor);
		strscpy(rec.disk, disk->disk_name, sizeof(rec.disk));
	}
	vsp_record_write(probe.channel, &rec.rec);
}

#ifdef VSP_HAVE_BLOCK_RQ_ERROR

static void block_error_on_error(void *data, struct request *rq, blk_status_t status,
				 unsigned int nr_bytes)
{
	block_error_record(rq, blk_status_to_errno(status), nr_bytes);
}

static struct vsp_tracepoint tracepoints[] = {
	{ .name = "block_rq_error", .func = block_error_on_error },
};

/* The compiler checks the handler's arguments. */
static inline void __maybe_unused block_error_check_handlers(void)
{
	check_trace_callback_type_block_rq_error(block_error_on_error);
}

#else

static void block_error_on_complete(void *data, struct request *rq, int error,
				    unsigned int nr_bytes)
{
	if (error && !blk_rq_is_passthrough(rq) && !(rq->rq_flags & RQF_QUIET))
		block_error_record(rq, error, nr_bytes);
}

static struct vsp_tracepoint tracepoints[] = {
	{ .name = "block_rq_complete", .func = block_error_on_complete },
};

static inline void __maybe_unused block_error_check_handlers(void)
{
	check_trace_callback_type_block_rq_complete(block_error_on_complete);
}

#endif

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.tracepoints = tracepoints,
	.n_tracepoints = ARRAY_SIZE(tracepoints),
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: failed requests to block devices");
MODULE_LICENSE("GPL");
