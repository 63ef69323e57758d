// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe memory_failure: the hardware has lost a page of memory.
 *
 * It uses the tracepoint memory_failure_event.  action_result() passes it when the
 * kernel has handled the page, with the result (mm/memory-failure.c, Linux 5.10 to 7.3).
 */

#include <linux/mm.h>
#ifdef VSP_HAVE_MEMORY_FAILURE_H
#include <trace/events/memory-failure.h>
#else
#include <ras/ras_event.h>
#endif

#include "vesper.h"

static struct vsp_probe probe;

/* The numbers of page types change between versions; their names do not. */
static const struct trace_print_flags page_types[] = { MF_PAGE_TYPE };

static void memory_failure_on_event(void *data, unsigned long pfn, int type, int result)
{
	struct vsp_memory_failure rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_MEMORY_FAILURE },
		.pfn = pfn,
		.result = result,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(page_types); i++) {
		if (page_types[i].mask == type)
			strscpy(rec.type, page_types[i].name, sizeof(rec.type));
	}
	vsp_record_write(probe.channel, &rec.rec);
}

static struct vsp_tracepoint tracepoints[] = {
	{ .name = "memory_failure_event", .func = memory_failure_on_event },
};

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.tracepoints = tracepoints,
	.n_tracepoints = ARRAY_SIZE(tracepoints),
};

vsp_probe_module();

/* The compiler checks the handler's arguments. */
static inline void __maybe_unused memory_failure_check_handlers(void)
{
	BUILD_BUG_ON(MF_IGNORED != (int)VSP_MF_IGNORED || MF_RECOVERED != (int)VSP_MF_RECOVERED);
	check_trace_callback_type_memory_failure_event(memory_failure_on_event);
}

MODULE_DESCRIPTION("VESPER probe: failures of the guest's memory");
MODULE_LICENSE("GPL");
