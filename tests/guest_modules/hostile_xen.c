// SPDX-License-Identifier: GPL-2.0-only
/*
 * The link of a hostile guest on Xen: pages that the real frontend grants.
 *
 * A return probe learns the pages and their grant references, so the frontend must
 * connect after this module is loaded.  The module also has pages of its own, whose
 * grants it ends at any time.  It never ends grants of the frontend: that would end
 * them a second time, when they may be grants of another device.
 */

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/mm.h>

#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#include "hostile.h"

#define NODE		"device/vesper/0"
#define HOST		0
#define MAX_REFS	4096
/* Pages of our own; the first is a directory. */
#define MINE		8

static struct page *granted[MAX_REFS];
static evtchn_port_t port;
/* The state in xenstore is not the one that the frontend has written. */
static bool state_is_forged;

static struct hostile_xen_own_page {
	struct page *page;
	grant_ref_t ref;
	bool given;
} mine[MINE];

/* -------------------------------------------------------------- grants */

struct hostile_xen_call {
	unsigned long gfn;
};

static int hostile_xen_on_grant(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct hostile_xen_call *call = (void *)instance->data;
	char caller[KSYM_SYMBOL_LEN];

	sprint_symbol(caller, regs_get_kernel_stack_nth(regs, 0));
	/* Returning 1 skips the call: pages of other devices are not touched. */
	if (!strstr(caller, "[vesper_xen]"))
		return 1;
	call->gfn = regs_get_kernel_argument(regs, 1);
	return 0;
}

static int hostile_xen_on_granted(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct hostile_xen_call *call = (void *)instance->data;
	int ref = regs_return_value(regs);

	if (ref > 0 && ref < MAX_REFS)
		granted[ref] = pfn_to_page(gfn_to_pfn(call->gfn));
	return 0;
}

static struct kretprobe grants = {
	.kp.symbol_name = "gnttab_grant_foreign_access",
	.entry_handler = hostile_xen_on_grant,
	.handler = hostile_xen_on_granted,
	.data_size = sizeof(struct hostile_xen_call),
	.maxactive = 64,	/* a network's queue grants in between */
};

static void *hostile_xen_granted_page(u64 ref)
{
	return ref < MAX_REFS && granted[ref] ? page_address(granted[ref]) : NULL;
}

static void *hostile_xen_page(u64 handle, unsigned int n)
{
	struct vsp_xen_dir *dir = hostile_xen_granted_page(handle);

	/* The page may be no directory: hostile_xen_granted_page() checks its numbers. */
	if (!dir || n >= min_t(u32, dir->pages, VSP_MAX_REGION_PAGES))
		return NULL;
	return hostile_xen_granted_page(dir->ref[n]);
}

/* --------------------------------------------------------- corruptions */

static struct vsp_region hostile_xen_any_region(void)
{
	struct vsp_channel *channel = &hostile_xen.table->channel[hostile_below(VSP_MAX_CHANNELS)];
	struct vsp_index *index = hostile_xen_page(channel->index.handle, 0);

	return index && hostile_below(2) ? index->buffer : channel->index;
}

static void *hostile_xen_any(void)
{
	void *found = NULL;
	unsigned int tries;

	switch (hostile_below(8)) {
	case 0:
		return hostile_xen.cchan;
	case 1:
		return hostile_xen.life;
	case 2:
		return hostile_xen.slot[hostile_below(VSP_WORDS_KINDS)];
	case 3:
		return hostile_xen.table;
	}
	for (tries = 0; !found && tries < 64; tries++)
		found = hostile_xen_page(hostile_xen_any_region().handle, hostile_below(16));
	return found ?: hostile_xen.table;
}

static u64 hostile_xen_edge(void)
{
	return hostile_below(MAX_REFS);
}

static u32 hostile_xen_any_ref(void)
{
	switch (hostile_below(4)) {
	case 0:
		return hostile_edge();
	case 1:
		return hostile_xen_any_region().handle;
	default:
		return mine[hostile_below(MINE)].ref;
	}
}

/* Grant a page, or end its grant, which fails while the host maps it. */
static void hostile_xen_toggle_grant(struct hostile_xen_own_page *one)
{
	if (!one->given)
		gnttab_grant_foreign_access_ref(one->ref, HOST, xen_page_to_gfn(one->page),
						hostile_below(2));
	else if (!gnttab_end_foreign_access_ref(one->ref))
		return;
	one->given = !one->given;
}

/* Make a region whose directory lists bad grants, ended ones, or others' pages. */
static void hostile_xen_forge_region(void)
{
	struct vsp_channel *channel = &hostile_xen.table->channel[hostile_below(VSP_MAX_CHANNELS)];
	struct vsp_index *index = hostile_xen_page(channel->index.handle, 0);
	struct vsp_xen_dir *dir = page_address(mine[0].page);
	unsigned int i;

	for (i = 0; i < MINE; i++) {
		if (!hostile_below(4))
			hostile_xen_toggle_grant(&mine[i]);
	}
	dir->pages = hostile_below(4) ? 64 : hostile_edge();
	for (i = 0; i < 64; i++)
		WRITE_ONCE(dir->ref[i], hostile_xen_any_ref());
	if (index && hostile_below(2))
		WRITE_ONCE(index->buffer.handle, mine[0].ref);
	else
		WRITE_ONCE(channel->index.handle, mine[0].ref);
	WRITE_ONCE(channel->generation, channel->generation + 1);
	WRITE_ONCE(hostile_xen.table->generation, hostile_xen.table->generation + 1);
}

/* The frontend writes these nodes again when it connects, except the state. */
static void hostile_xen_corrupt_xenstore(void)
{
	static const char * const names[] = { "ring-ref", "event-channel", "protocol", "state" };
	const char *name = names[hostile_below(ARRAY_SIZE(names))];
	char text[64];
	unsigned int i;

	state_is_forged |= !strcmp(name, "state");
	switch (hostile_below(3)) {
	case 0:
		xenbus_printf(XBT_NIL, NODE, name, "%lld", hostile_edge());
		break;
	case 1:
		for (i = 0; i < sizeof(text) - 1; i++)
			text[i] = 1 + hostile_below(255);
		text[i] = '\0';
		xenbus_write(XBT_NIL, NODE, name, text);
		break;
	default:
		xenbus_rm(XBT_NIL, NODE, name);
	}
}

static void hostile_xen_own(void)
{
	if (hostile_below(16))
		hostile_xen_forge_region();
	else
		hostile_xen_corrupt_xenstore();
}

/* Without its state in xenstore the frontend would not change it any more. */
static void hostile_xen_mend(void)
{
	if (state_is_forged)
		xenbus_printf(XBT_NIL, NODE, "state", "%d", XenbusStateConnected);
	state_is_forged = false;
}

static void hostile_xen_ring(void)
{
	notify_remote_via_evtchn(port);
}

/* ------------------------------------------------------------- control */

static u32 hostile_xen_find_magic(u32 magic)
{
	unsigned int ref;

	for (ref = 0; ref < MAX_REFS; ref++) {
		u32 *start = hostile_xen_granted_page(ref);

		if (start && *start == magic)
			return ref;
	}
	return 0;
}

/* Only the host maps the pages of the crash log side by side: find the slot's page. */
static void *hostile_xen_find_slot(unsigned int n, u32 first)
{
	unsigned long at = offsetof(struct vsp_words, slot[n]);
	unsigned int ref;

	for (ref = 0; ref < MAX_REFS; ref++) {
		struct vsp_xen_dir *dir = hostile_xen_granted_page(ref);

		if (dir && dir->ref[0] == first &&
		    dir->pages == DIV_ROUND_UP(sizeof(struct vsp_words), VSP_PAGE_SIZE) &&
		    hostile_xen_page(ref, at / VSP_PAGE_SIZE))
			return hostile_xen_page(ref, at / VSP_PAGE_SIZE) + at % VSP_PAGE_SIZE;
	}
	return NULL;
}

static bool hostile_xen_find(void)
{
	struct hostile_link *link = &hostile_xen;
	u32 words = hostile_xen_find_magic(VSP_WORDS_MAGIC);
	unsigned int i;

	port = xenbus_read_unsigned(NODE, "event-channel", 0);
	link->cchan = hostile_xen_granted_page(xenbus_read_unsigned(NODE, "ring-ref", 0));
	link->table = hostile_xen_granted_page(hostile_xen_find_magic(VSP_TABLE_MAGIC));
	link->life = hostile_xen_granted_page(hostile_xen_find_magic(VSP_LIFE_MAGIC));
	for (i = 0; i < VSP_WORDS_KINDS; i++)
		link->slot[i] = hostile_xen_find_slot(i, words);
	return port && link->cchan && link->cchan->magic == VSP_CCHAN_MAGIC && link->table &&
	       link->life && link->slot[0] && link->slot[1] &&
	       xenbus_read_unsigned(NODE, "state", 0) == XenbusStateConnected;
}

static void hostile_xen_close(void)
{
	unsigned int i;

	unregister_kretprobe(&grants);
	for (i = 0; i < MINE && mine[i].page; i++)
		gnttab_end_foreign_access(mine[i].ref, mine[i].page);
}

static int hostile_xen_open(void)
{
	unsigned int i;
	int ref, err;

	if (!xen_domain())
		return -ENODEV;
	err = register_kretprobe(&grants);
	for (i = 0; !err && i < MINE; i++) {
		struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);

		ref = page ? gnttab_grant_foreign_access(HOST, xen_page_to_gfn(page), 0) : -ENOMEM;
		if (ref < 0) {
			hostile_xen_close();
			return ref;
		}
		mine[i] = (struct hostile_xen_own_page) { .page = page, .ref = ref, .given = true };
	}
	return err;
}

struct hostile_link hostile_xen = {
	.open = hostile_xen_open,
	.close = hostile_xen_close,
	.find = hostile_xen_find,
	.page = hostile_xen_page,
	.any = hostile_xen_any,
	.edge = hostile_xen_edge,
	.own = hostile_xen_own,
	.mend = hostile_xen_mend,
	.ring = hostile_xen_ring,
};
