// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: a transport without a hypervisor.  The host is a process in the guest
 * that has /dev/vsp_host open.
 *
 * A region is read and written at the offset (handle << 32) + place.  C-chan has the
 * handle 0; a write to it notifies the guest.  A read at the handle NOTIFIED gives the
 * number of notifications of the host so far.  Opening the file activates the guest,
 * closing it deactivates the guest.
 *
 * With the parameter refuse_nth=N the Nth region from now on is not shared.  The
 * parameters useful and useless count the kicks that the core has done.
 */

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vesper_transport.h"

#define MAX_REGIONS	512
#define NOTIFIED	0x40000000U

struct loopback_region {
	unsigned int n;
	bool writable;
	struct page *pages[];
};

static struct loopback_region *regions[MAX_REGIONS];	/* handle - 1 */
static DEFINE_MUTEX(regions_lock);	/* protects regions */
static struct page *cchan_page;
static atomic64_t notified;

static unsigned int refuse_nth;		/* under vsp_lock of the core */
module_param(refuse_nth, uint, 0644);

static unsigned int useful, useless;	/* under vsp_lock of the core */
module_param(useful, uint, 0444);
module_param(useless, uint, 0444);

static int loopback_share(struct vsp_transport *transport, struct page *const *pages,
			  unsigned int n, bool writable, u64 *handle)
{
	struct loopback_region *region;
	unsigned int i;

	if (refuse_nth && !--refuse_nth)
		return -ENOSPC;
	region = kvzalloc(struct_size(region, pages, n), GFP_KERNEL);
	if (!region)
		return -ENOMEM;
	region->n = n;
	region->writable = writable;
	for (i = 0; i < n; i++) {
		get_page(pages[i]);
		region->pages[i] = pages[i];
	}

	mutex_lock(&regions_lock);
	for (i = 0; i < MAX_REGIONS && regions[i]; i++)
		;
	if (i < MAX_REGIONS) {
		regions[i] = region;
		*handle = i + 1;
	}
	mutex_unlock(&regions_lock);
	return i < MAX_REGIONS ? 0 : -ENOSPC;
}

static void loopback_unshare(struct vsp_transport *transport, u64 handle)
{
	struct loopback_region *region;
	unsigned int i;

	mutex_lock(&regions_lock);
	region = regions[handle - 1];
	regions[handle - 1] = NULL;
	mutex_unlock(&regions_lock);
	for (i = 0; i < region->n; i++)
		put_page(region->pages[i]);
	kvfree(region);
}

static void loopback_notify(struct vsp_transport *transport)
{
	atomic64_inc(&notified);
}

static void loopback_kick_done(struct vsp_transport *transport, bool was_useful)
{
	if (was_useful)
		useful++;
	else
		useless++;
}

static const struct vsp_transport_ops loopback_ops = {
	.share = loopback_share,
	.unshare = loopback_unshare,
	.notify = loopback_notify,
	.kick_done = loopback_kick_done,
};

static struct vsp_transport transport = { .ops = &loopback_ops };

/* Return the page at an offset, or NULL.  Under regions_lock. */
static struct page *loopback_find_page(loff_t offset, bool write)
{
	u32 handle = offset >> 32, page = (u32)offset >> PAGE_SHIFT;
	struct loopback_region *region;

	if (!handle)
		return page ? NULL : cchan_page;
	region = handle <= MAX_REGIONS ? regions[handle - 1] : NULL;
	if (!region || page >= region->n || (write && !region->writable))
		return NULL;
	return region->pages[page];
}

static ssize_t loopback_read(struct file *file, char __user *buf, size_t len, loff_t *offset)
{
	u64 count = atomic64_read(&notified);
	struct page *page;
	ssize_t done;

	if (*offset >> 32 == NOTIFIED) {
		len = min(len, sizeof(count));
		return copy_to_user(buf, &count, len) ? -EFAULT : len;
	}
	mutex_lock(&regions_lock);
	page = loopback_find_page(*offset, false);
	done = min_t(size_t, len, PAGE_SIZE - offset_in_page(*offset));
	if (!page)
		done = -EINVAL;
	else if (copy_to_user(buf, page_address(page) + offset_in_page(*offset), done))
		done = -EFAULT;
	mutex_unlock(&regions_lock);
	if (done > 0)
		*offset += done;
	return done;
}

static ssize_t loopback_write(struct file *file, const char __user *buf, size_t len,
			      loff_t *offset)
{
	bool is_cchan = !(*offset >> 32);
	struct page *page;
	ssize_t done;

	mutex_lock(&regions_lock);
	page = loopback_find_page(*offset, true);
	done = min_t(size_t, len, PAGE_SIZE - offset_in_page(*offset));
	if (!page)
		done = -EINVAL;
	else if (copy_from_user(page_address(page) + offset_in_page(*offset), buf, done))
		done = -EFAULT;
	mutex_unlock(&regions_lock);
	if (done > 0)
		*offset += done;
	if (is_cchan)
		vsp_cchan_kick();
	return done;
}

static int loopback_open(struct inode *inode, struct file *file)
{
	return vsp_transport_register(&transport);
}

static int loopback_release(struct inode *inode, struct file *file)
{
	vsp_transport_unregister(&transport);
	return 0;
}

static const struct file_operations loopback_fops = {
	.owner = THIS_MODULE,
	.open = loopback_open,
	.release = loopback_release,
	.read = loopback_read,
	.write = loopback_write,
	.llseek = default_llseek,
};

static struct miscdevice loopback_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vsp_host",
	.fops = &loopback_fops,
};

static int __init loopback_init(void)
{
	int err;

	cchan_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!cchan_page)
		return -ENOMEM;
	transport.cchan = page_address(cchan_page);
	err = misc_register(&loopback_device);
	if (err)
		__free_page(cchan_page);
	return err;
}
module_init(loopback_init);

static void __exit loopback_exit(void)
{
	unsigned int i;

	misc_deregister(&loopback_device);
	for (i = 0; i < MAX_REGIONS; i++)
		WARN(regions[i], "the core has left region %u shared\n", i + 1);
	__free_page(cchan_page);
}
module_exit(loopback_exit);

MODULE_DESCRIPTION("VESPER tests: a transport to a process in the same guest");
MODULE_LICENSE("GPL");
