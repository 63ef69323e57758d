// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: a transport to a process outside of the guest, without an interface of a
 * hypervisor.  The guest's RAM is a file, which the process maps.
 *
 * A region's handle is the frame number of a page that lists the frames of the region
 * (struct vsp_xen_dir).  Each byte written to QEMU's debug port, which QEMU appends to
 * a file, notifies the host.  The first line written there is the frame number of the
 * C-chan page.  The host cannot notify the guest: C-chan is polled.
 */

#include <linux/io.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "vesper_transport.h"

#define DEBUG_PORT	0xe9
#define POLL		(HZ / 50)

struct ram_region {
	struct list_head list;
	struct vsp_xen_dir *dir;
	struct page *pages[];
};

static LIST_HEAD(regions);	/* under vsp_lock of the core */
static struct page *cchan_page;

static int ram_share(struct vsp_transport *transport, struct page *const *pages,
		     unsigned int n, bool writable, u64 *handle)
{
	struct ram_region *region;
	unsigned int i;

	if (n > VSP_MAX_REGION_PAGES)
		return -E2BIG;
	region = kvzalloc(struct_size(region, pages, n), GFP_KERNEL);
	if (!region)
		return -ENOMEM;
	region->dir = (struct vsp_xen_dir *)get_zeroed_page(GFP_KERNEL);
	if (!region->dir) {
		kvfree(region);
		return -ENOMEM;
	}
	region->dir->pages = n;
	for (i = 0; i < n; i++) {
		get_page(pages[i]);
		region->pages[i] = pages[i];
		region->dir->ref[i] = page_to_pfn(pages[i]);
	}
	list_add(&region->list, &regions);
	*handle = page_to_pfn(virt_to_page(region->dir));
	return 0;
}

static void ram_unshare(struct vsp_transport *transport, u64 handle)
{
	struct ram_region *region;
	unsigned int i;

	list_for_each_entry(region, &regions, list) {
		if (page_to_pfn(virt_to_page(region->dir)) != handle)
			continue;
		list_del(&region->list);
		for (i = 0; i < region->dir->pages; i++)
			put_page(region->pages[i]);
		free_page((unsigned long)region->dir);
		kvfree(region);
		return;
	}
}

static void ram_notify(struct vsp_transport *transport)
{
	outb('N', DEBUG_PORT);
}

static const struct vsp_transport_ops ram_ops = {
	.share = ram_share,
	.unshare = ram_unshare,
	.notify = ram_notify,
};

static struct vsp_transport transport = { .ops = &ram_ops };

static void ram_poll_cchan(struct work_struct *work);
static DECLARE_DELAYED_WORK(poll_work, ram_poll_cchan);

static void ram_poll_cchan(struct work_struct *work)
{
	vsp_cchan_kick();
	schedule_delayed_work(&poll_work, POLL);
}

static int __init ram_init(void)
{
	char line[24];
	int i, len, err;

	cchan_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!cchan_page)
		return -ENOMEM;
	transport.cchan = page_address(cchan_page);
	err = vsp_transport_register(&transport);
	if (err) {
		__free_page(cchan_page);
		return err;
	}
	len = scnprintf(line, sizeof(line), "\n%lu\n", page_to_pfn(cchan_page));
	for (i = 0; i < len; i++)
		outb(line[i], DEBUG_PORT);
	schedule_delayed_work(&poll_work, POLL);
	return 0;
}
module_init(ram_init);

static void __exit ram_exit(void)
{
	cancel_delayed_work_sync(&poll_work);
	vsp_transport_unregister(&transport);
	__free_page(cchan_page);
}
module_exit(ram_exit);

MODULE_DESCRIPTION("VESPER tests: a transport to a process that maps the guest's RAM");
MODULE_LICENSE("GPL");
