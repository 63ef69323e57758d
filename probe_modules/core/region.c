// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory regions shared with the host.
 *
 * Either the transport lets the host map pages of this kernel.  Or the transport
 * has memory that the host sees: then the content of the pages is moved there
 * for as long as the transport is registered.
 */

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "core.h"

static void vsp_shared_drop_pages(struct vsp_shared *shared)
{
	unsigned int i;

	for (i = 0; i < shared->nr_pages; i++)
		put_page(shared->pages[i]);
	kvfree(shared->pages);
	memset(shared, 0, sizeof(*shared));
}

void vsp_call_on(unsigned int cpu, smp_call_func_t func, void *info)
{
	unsigned long flags;

	if (!smp_call_function_single(cpu, func, info, 1))
		return;
	local_irq_save(flags);
	func(info);
	local_irq_restore(flags);
}

static void vsp_shared_move(struct vsp_shared *shared, void *to)
{
	if (shared->move)
		shared->move(shared, to);
	shared->addr = to;
}

int vsp_shared_connect(struct vsp_shared *shared)
{
	struct vsp_transport *transport = vsp_transport_locked();
	void *memory;

	if (!transport || !shared->pages)
		return 0;
	if (transport->ops->share)
		return transport->ops->share(transport, shared->pages, shared->nr_pages,
					     shared->writable, &shared->region.handle);
	memory = transport->ops->alloc(transport, shared->nr_pages, &shared->region.handle);
	if (!memory)
		return -ENOSPC;
	vsp_shared_move(shared, memory);
	return 0;
}

void vsp_shared_disconnect(struct vsp_shared *shared)
{
	struct vsp_transport *transport = vsp_transport_locked();
	u64 handle = shared->region.handle;

	shared->region.handle = 0;
	if (!transport || !handle)
		return;
	if (transport->ops->unshare) {
		transport->ops->unshare(transport, handle);
		return;
	}
	vsp_shared_move(shared, shared->home);
	transport->ops->free(transport, handle, shared->nr_pages);
}

void vsp_shared_release(struct vsp_shared *shared)
{
	vsp_shared_disconnect(shared);
	vsp_shared_drop_pages(shared);
}

/* Take references on shared->pages; the array itself belongs to @shared now. */
static int vsp_shared_hold(struct vsp_shared *shared)
{
	unsigned int i;

	for (i = 0; i < shared->nr_pages; i++)
		get_page(shared->pages[i]);
	shared->region.pages = shared->nr_pages;
	return vsp_shared_connect(shared);
}

/*
 * The pages belong to the relay channel, which drops them when it is closed.
 * The references taken here keep each page as long as it is shared.
 */
int vsp_shared_init(struct vsp_shared *shared, struct page *const *pages,
		    unsigned int nr_pages, void *home, vsp_move_t *move)
{
	struct page **copy;

	copy = kvmalloc_array(nr_pages, sizeof(*copy), GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, pages, nr_pages * sizeof(*copy));
	*shared = (struct vsp_shared) {
		.pages = copy, .nr_pages = nr_pages,
		.home = home, .addr = home, .move = move,
	};
	return vsp_shared_hold(shared);
}

int vsp_shared_init_vmalloc(struct vsp_shared *shared, void *home,
			    unsigned int nr_pages, bool writable, vsp_move_t *move)
{
	struct page **pages;
	unsigned int i;

	pages = kvmalloc_array(nr_pages, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < nr_pages; i++)
		pages[i] = vmalloc_to_page(home + i * PAGE_SIZE);
	*shared = (struct vsp_shared) {
		.pages = pages, .nr_pages = nr_pages, .writable = writable,
		.home = home, .addr = home, .move = move,
	};
	return vsp_shared_hold(shared);
}
