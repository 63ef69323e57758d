// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receives the image of a probe: the host writes it into one shared region.
 *
 * The image is copied first and checked afterwards, so that the host cannot
 * change it under the loader.
 */

#include <linux/crc32.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "core.h"

#define MAX_PARAMS_LEN	1024

/*
 * The OOM killer must not kill a process of the guest for a request of the host.
 * Page tables are allocated without these flags, so some pages must remain free.
 */
#define GFP_IMAGE	(GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)
#define SPARE_PAGES	256

/* Under vsp_lock. */
static void *image_addr;
static struct vsp_shared image_shared;

void vsp_image_drop(void)
{
	vsp_shared_release(&image_shared);
	vfree(image_addr);
	image_addr = NULL;
}

/* There is one image at a time.  An earlier one, of a daemon that died, is dropped. */
int vsp_image_alloc(u32 pages, struct vsp_region *region)
{
	void *addr;
	int err;

	if (!pages || pages > VSP_MAX_REGION_PAGES)
		return -EINVAL;
	if (si_mem_available() < (long)pages + SPARE_PAGES)
		return -ENOMEM;
	addr = __vmalloc(pages * PAGE_SIZE, GFP_IMAGE | __GFP_ZERO);
	if (!addr)
		return -ENOMEM;

	mutex_lock(&vsp_lock);
	vsp_image_drop();
	err = vsp_shared_init_vmalloc(&image_shared, addr, pages, true, NULL);
	if (!err && !image_shared.region.handle)
		err = -ENOTCONN;	/* the transport was unregistered meanwhile */
	if (err) {
		vsp_shared_release(&image_shared);
	} else {
		image_addr = addr;
		*region = image_shared.region;
	}
	mutex_unlock(&vsp_lock);

	if (err)
		vfree(addr);
	return err;
}

static bool vsp_image_has_handle(u64 handle)
{
	return image_addr && image_shared.region.handle == handle;
}

int vsp_image_free(u64 handle)
{
	int err = -ENOENT;

	mutex_lock(&vsp_lock);
	if (vsp_image_has_handle(handle)) {
		vsp_image_drop();
		err = 0;
	}
	mutex_unlock(&vsp_lock);
	return err;
}

static int vsp_image_check(const struct vsp_msg_load *load, struct vsp_image *image)
{
	size_t total = (size_t)load->image_len + load->params_len;
	u32 crc = ~crc32_le(~0, image->data, total);

	if (crc != load->crc32) {
		pr_warn("vesper: image of %s: crc32 is %08x, the host says %08x\n",
			load->name, crc, load->crc32);
		return -EBADMSG;
	}
	image->len = load->image_len;
	image->params = image->data + load->image_len;
	image->params[load->params_len] = '\0';
	return 0;
}

/* Check the sizes and allocate memory for the copy. */
static int vsp_image_alloc_copy(const struct vsp_msg_load *load, struct vsp_image *image)
{
	size_t total = (size_t)load->image_len + load->params_len;

	memset(image, 0, sizeof(*image));
	if (!load->image_len || load->params_len > MAX_PARAMS_LEN ||
	    total > VSP_MAX_REGION_PAGES * PAGE_SIZE)
		return -EINVAL;
	image->data = kvmalloc(total + 1, GFP_IMAGE);
	return image->data ? 0 : -ENOMEM;
}

int vsp_image_take(const struct vsp_msg_load *load, struct vsp_image *image)
{
	size_t total = (size_t)load->image_len + load->params_len;
	int err;

	err = vsp_image_alloc_copy(load, image);
	mutex_lock(&vsp_lock);
	if (!vsp_image_has_handle(load->region.handle)) {
		err = -ENOENT;
	} else {
		if (!err && total > image_shared.nr_pages * PAGE_SIZE)
			err = -EINVAL;
		if (!err)
			memcpy(image->data, image_shared.addr, total);
		vsp_image_drop();
	}
	mutex_unlock(&vsp_lock);

	if (!err)
		err = vsp_image_check(load, image);
	if (err)
		vsp_image_put(image);
	return err;
}

void vsp_image_put(struct vsp_image *image)
{
	kvfree(image->data);
	memset(image, 0, sizeof(*image));
}
