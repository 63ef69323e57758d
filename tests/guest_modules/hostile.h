/* SPDX-License-Identifier: GPL-2.0-only */
/* Between the corruptions (hostile.c) and the two links to a host. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <linux/types.h>

#include "vesper_abi.h"

/**
 * struct hostile_link - what a guest shares over one of the links
 * @cchan, @table, @life, @slot: found by @find; slots of the last words
 * @open: 0, -ENODEV: there is no such link, or another -errno
 * @close: undoes @open
 * @find: returns whether all of it is shared now
 * @page: of a region, page @n; NULL: there is none
 * @any: any page that is shared; what is written there harms the host at most
 * @edge: a number that might mean something on this link
 * @own: a corruption of what this link alone has
 * @mend: puts back what would end all for good; may be NULL
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

/* At random; the same ones for the same seed. */
u32 hostile_below(u32 limit);
/* What readers get wrong, if anything. */
u64 hostile_edge(void);

#endif /* HOSTILE_H */
