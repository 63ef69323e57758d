/* SPDX-License-Identifier: GPL-2.0-only */
/* The interface between the corruptions (hostile.c) and the two links to a host. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <linux/types.h>

#include "vesper_abi.h"

/**
 * struct hostile_link - memory that a guest shares over one of the links
 * @cchan: the C-chan page; set by @find, as the following
 * @table: the channel table
 * @life: the heartbeats
 * @slot: slots of the crash log
 * @open: open the link.  Returns 0, -ENODEV if there is no such link, or -errno.
 * @close: undo @open
 * @find: find the shared memory.  Returns whether all of it is shared now.
 * @page: return page @n of a region, or NULL if there is none
 * @any: return any shared page.  A write to it can harm the host, but not the guest.
 * @edge: return a number that may have a meaning on this link
 * @own: corrupt something that only this link has
 * @mend: restore what the link cannot do without; may be NULL
 * @ring: notify the host
 */
struct hostile_link {
	struct vsp_cchan *cchan;
	struct vsp_table *table;
	void *life;
	struct vsp_words_slot *slot[VSP_WORDS_KINDS];

	int (*open)(void);
	void (*close)(void);
	bool (*find)(void);
	void *(*page)(u64 handle, unsigned int n);
	void *(*any)(void);
	u64 (*edge)(void);
	void (*own)(void);
	void (*mend)(void);
	void (*ring)(void);
};

extern struct hostile_link hostile_ivshmem, hostile_xen;

/* Return a random number below @limit.  The sequence depends on the seed only. */
u32 hostile_below(u32 limit);
/* Return a number that readers may handle wrongly. */
u64 hostile_edge(void);

#endif /* HOSTILE_H */
