// SPDX-License-Identifier: GPL-2.0-only
/* Pieces of the guest's memory that the host may map. */

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "core.h"

static void drop_pages(struct vsp_shared *shared)
{
	unsigned int i;

	for (i = 0; i < shared->nr_pages; i++)
		put_page(shared->pages[i]);
	kvfree(shared->pages);
	memset(shared, 0, sizeof(*shared));
}

int vsp_shared_connect(struct vsp_shared *shared)
{
	struct vsp_transport *transport = vsp_transport_locked();

	if (!transport || !shared->pages)
		return 0;
	return transport->ops->share(transport, shared->pages, shared->nr_pages,
				     shared->writable, &shared->region.handle);
}

void vsp_shared_disconnect(struct vsp_shared *shared)
{
	struct vsp_transport *transport = vsp_transport_locked();

	if (transport && shared->region.handle)
		transport->ops->unshare(transport, shared->region.handle);
	shared->region.handle = 0;
}

void vsp_shared_release(struct vsp_shared *shared)
{
	vsp_shared_disconnect(shared);
	drop_pages(shared);
}

/* Takes over what shared->pages points to. */
static int init(struct vsp_shared *shared)
{
	unsigned int i;
	int err;

	for (i = 0; i < shared->nr_pages; i++)
		get_page(shared->pages[i]);
	shared->region.pages = shared->nr_pages;
	err = vsp_shared_connect(shared);
	if (err)
		drop_pages(shared);
	return err;
}

/*
 * The pages are the relay channel's, which frees them with the channel; the
 * references taken here make sure that none is freed while it is shared.
 */
int vsp_shared_init(struct vsp_shared *shared, struct page *const *pages,
		    unsigned int nr_pages)
{
	struct page **copy;

	copy = kvmalloc_array(nr_pages, sizeof(*copy), GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, pages, nr_pages * sizeof(*copy));
	*shared = (struct vsp_shared) { .pages = copy, .nr_pages = nr_pages };
	return init(shared);
}

int vsp_shared_init_vmalloc(struct vsp_shared *shared, void *addr,
			    unsigned int nr_pages, bool writable)
{
	struct page **pages;
	unsigned int i;

	pages = kvmalloc_array(nr_pages, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < nr_pages; i++)
		pages[i] = vmalloc_to_page(addr + i * PAGE_SIZE);
	*shared = (struct vsp_shared) {
		.pages = pages, .nr_pages = nr_pages, .writable = writable,
	};
	return init(shared);
}
