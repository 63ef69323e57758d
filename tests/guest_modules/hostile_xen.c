// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a hostile guest shares on Xen: pages that the real frontend grants.
 * Which ones, and under which reference, a probe of its calls tells; the
 * frontend must connect after this module was loaded.  And pages of its own,
 * whose grants it takes back as it likes; the frontend's are left to it, which
 * would give back another's in their place.
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
/* Of our own; the first is a directory. */
#define MINE		8

static struct page *granted[MAX_REFS];
static evtchn_port_t port;
/* Whether its state in xenstore is not what the frontend has written. */
static bool state_is_forged;

static struct mine {
	struct page *page;
	grant_ref_t ref;
	bool given;
} mine[MINE];

/* -------------------------------------------------------------- grants */

struct call {
	unsigned long gfn;
};

static int on_call(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct call *call = (void *)instance->data;
	char caller[KSYM_SYMBOL_LEN];

	sprint_symbol(caller, regs_get_kernel_stack_nth(regs, 0));
	/* Not 0: other devices' pages are left alone. */
	if (!strstr(caller, "[vesper_xen]"))
		return 1;
	call->gfn = regs_get_kernel_argument(regs, 1);
	return 0;
}

static int on_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct call *call = (void *)instance->data;
	int ref = regs_return_value(regs);

	if (ref > 0 && ref < MAX_REFS)
		granted[ref] = pfn_to_page(gfn_to_pfn(call->gfn));
	return 0;
}

static struct kretprobe grants = {
	.kp.symbol_name = "gnttab_grant_foreign_access",
	.entry_handler = on_call,
	.handler = on_return,
	.data_size = sizeof(struct call),
	.maxactive = 64,	/* a network's queue grants in between */
};

static void *page_of(u64 ref)
{
	return ref < MAX_REFS && granted[ref] ? page_address(granted[ref]) : NULL;
}

static void *page(u64 handle, unsigned int n)
{
	struct vsp_xen_dir *dir = page_of(handle);

	/* A page that is no directory has any numbers, which page_of() bounds. */
	if (!dir || n >= min_t(u32, dir->pages, VSP_MAX_REGION_PAGES))
		return NULL;
	return page_of(dir->ref[n]);
}

/* --------------------------------------------------------- corruptions */

static struct vsp_region any_region(void)
{
	struct vsp_channel *channel = &hostile_xen.table->channel[hostile_below(VSP_MAX_CHANNELS)];
	struct vsp_index *index = page(channel->index.handle, 0);

	return index && hostile_below(2) ? index->buffer : channel->index;
}

static void *any(void)
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
		found = page(any_region().handle, hostile_below(16));
	return found ?: hostile_xen.table;
}

static u64 edge(void)
{
	return hostile_below(MAX_REFS);
}

static u32 any_ref(void)
{
	switch (hostile_below(4)) {
	case 0:
		return hostile_edge();
	case 1:
		return any_region().handle;
	default:
		return mine[hostile_below(MINE)].ref;
	}
}

/* Given, or taken back; what the host has mapped cannot be. */
static void turn(struct mine *one)
{
	if (!one->given)
		gnttab_grant_foreign_access_ref(one->ref, HOST, xen_page_to_gfn(one->page),
						hostile_below(2));
	else if (!gnttab_end_foreign_access_ref(one->ref))
		return;
	one->given = !one->given;
}

/* A region that leads to pages never given, taken back, others', its own directory. */
static void forge(void)
{
	struct vsp_channel *channel = &hostile_xen.table->channel[hostile_below(VSP_MAX_CHANNELS)];
	struct vsp_index *index = page(channel->index.handle, 0);
	struct vsp_xen_dir *dir = page_address(mine[0].page);
	unsigned int i;

	for (i = 0; i < MINE; i++) {
		if (!hostile_below(4))
			turn(&mine[i]);
	}
	dir->pages = hostile_below(4) ? 64 : hostile_edge();
	for (i = 0; i < 64; i++)
		WRITE_ONCE(dir->ref[i], any_ref());
	if (index && hostile_below(2))
		WRITE_ONCE(index->buffer.handle, mine[0].ref);
	else
		WRITE_ONCE(channel->index.handle, mine[0].ref);
	WRITE_ONCE(channel->generation, channel->generation + 1);
	WRITE_ONCE(hostile_xen.table->generation, hostile_xen.table->generation + 1);
}

/* All but the state the frontend writes again when it connects. */
static void publish(void)
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

static void own(void)
{
	if (hostile_below(16))
		forge();
	else
		publish();
}

/* Without its state in xenstore a frontend would not enter another one. */
static void mend(void)
{
	if (state_is_forged)
		xenbus_printf(XBT_NIL, NODE, "state", "%d", XenbusStateConnected);
	state_is_forged = false;
}

static void ring(void)
{
	notify_remote_via_evtchn(port);
}

/* ------------------------------------------------------------- control */

static u32 find_magic(u32 magic)
{
	unsigned int ref;

	for (ref = 0; ref < MAX_REFS; ref++) {
		u32 *start = page_of(ref);

		if (start && *start == magic)
			return ref;
	}
	return 0;
}

/* The last words are pages side by side for the host, not for us. */
static void *slot(unsigned int n, u32 first)
{
	unsigned long at = offsetof(struct vsp_words, slot[n]);
	unsigned int ref;

	for (ref = 0; ref < MAX_REFS; ref++) {
		struct vsp_xen_dir *dir = page_of(ref);

		if (dir && dir->ref[0] == first &&
		    dir->pages == DIV_ROUND_UP(sizeof(struct vsp_words), VSP_PAGE_SIZE) &&
		    page(ref, at / VSP_PAGE_SIZE))
			return page(ref, at / VSP_PAGE_SIZE) + at % VSP_PAGE_SIZE;
	}
	return NULL;
}

static bool find(void)
{
	struct hostile_link *link = &hostile_xen;
	u32 words = find_magic(VSP_WORDS_MAGIC);
	unsigned int i;

	port = xenbus_read_unsigned(NODE, "event-channel", 0);
	link->cchan = page_of(xenbus_read_unsigned(NODE, "ring-ref", 0));
	link->table = page_of(find_magic(VSP_TABLE_MAGIC));
	link->life = page_of(find_magic(VSP_LIFE_MAGIC));
	for (i = 0; i < VSP_WORDS_KINDS; i++)
		link->slot[i] = slot(i, words);
	return port && link->cchan && link->cchan->magic == VSP_CCHAN_MAGIC && link->table &&
	       link->life && link->slot[0] && link->slot[1] &&
	       xenbus_read_unsigned(NODE, "state", 0) == XenbusStateConnected;
}

static void close(void)
{
	unsigned int i;

	unregister_kretprobe(&grants);
	for (i = 0; i < MINE && mine[i].page; i++)
		gnttab_end_foreign_access(mine[i].ref, mine[i].page);
}

static int open(void)
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
			close();
			return ref;
		}
		mine[i] = (struct mine) { .page = page, .ref = ref, .given = true };
	}
	return err;
}

struct hostile_link hostile_xen = {
	.open = open,
	.close = close,
	.find = find,
	.page = page,
	.any = any,
	.edge = edge,
	.own = own,
	.mend = mend,
	.ring = ring,
};
