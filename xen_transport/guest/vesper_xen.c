// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's frontend on Xen: xenbus frontend "vesper".
 *
 * One granted page is C-chan, and one event channel notifies in both directions.
 * Shared regions are granted page by page (struct vsp_xen_dir in vesper_abi.h).  The
 * host activates the guest by creating the device, or by setting the backend's state
 * to 2 again.
 */

#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/platform_pci.h>
#include <xen/xen-ops.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#include "vesper_transport.h"

/* One device. */
struct vsp_xen_device {
	struct xenbus_device *xdev;
	struct vsp_transport transport;
	bool connected;		/* the following fields are valid */
	grant_ref_t ring_ref;
	evtchn_port_t port;
	int irq;
	atomic_t eoi_due;	/* the next event comes only after the EOI */
	struct list_head regions;
};

/* The core has one transport, so there is one device. */
static DEFINE_MUTEX(the_device_lock);
static struct xenbus_device *the_device;

/* A shared region.  Its handle is the grant reference of the directory page. */
struct vsp_xen_region {
	struct list_head list;
	grant_ref_t ref;
	struct vsp_xen_dir *dir;
	unsigned int granted;
	struct page *pages[];
};

/* ------------------------------------------------------------- grants */

/* End a grant, and drop a page reference as soon as the host has unmapped the page. */
static void vsp_xen_end_grant(grant_ref_t ref, struct page *page)
{
#if defined(VSP_HAVE_GRANT_END_PAGE)
	gnttab_end_foreign_access(ref, page);
#elif defined(VSP_HAVE_GRANT_END_READONLY)
	gnttab_end_foreign_access(ref, 0, (unsigned long)page_address(page));
#else
	gnttab_end_foreign_access(ref, (unsigned long)page_address(page));
#endif
}

static int vsp_xen_grant_page(struct vsp_xen_device *vx, struct page *page, bool writable)
{
	return gnttab_grant_foreign_access(vx->xdev->otherend_id,
					   xen_page_to_gfn(page), !writable);
}

static void vsp_xen_end_region_grants(struct vsp_xen_region *region)
{
	unsigned int i;

	for (i = 0; i < region->granted; i++)
		vsp_xen_end_grant(region->dir->ref[i], region->pages[i]);
}

static int vsp_xen_share(struct vsp_transport *transport, struct page *const *pages,
			 unsigned int n, bool writable, u64 *handle)
{
	struct vsp_xen_device *vx = container_of(transport, struct vsp_xen_device, transport);
	struct vsp_xen_region *region;
	int ref, err;

	BUILD_BUG_ON(sizeof(struct vsp_xen_dir) != XEN_PAGE_SIZE);

	if (n > VSP_MAX_REGION_PAGES)
		return -E2BIG;
	region = kvzalloc(struct_size(region, pages, n), GFP_KERNEL);
	if (!region)
		return -ENOMEM;
	region->dir = (struct vsp_xen_dir *)get_zeroed_page(GFP_KERNEL);
	if (!region->dir) {
		err = -ENOMEM;
		goto free_region;
	}

	region->dir->pages = n;
	for (; region->granted < n; region->granted++) {
		struct page *page = pages[region->granted];

		ref = vsp_xen_grant_page(vx, page, writable);
		if (ref < 0) {
			err = ref;
			goto end_grants;
		}
		get_page(page);
		region->pages[region->granted] = page;
		region->dir->ref[region->granted] = ref;
	}

	ref = vsp_xen_grant_page(vx, virt_to_page(region->dir), false);
	if (ref < 0) {
		err = ref;
		goto end_grants;
	}
	region->ref = ref;
	list_add(&region->list, &vx->regions);
	*handle = ref;
	return 0;

end_grants:
	vsp_xen_end_region_grants(region);
	free_page((unsigned long)region->dir);
free_region:
	kvfree(region);
	return err;
}

static void vsp_xen_unshare(struct vsp_transport *transport, u64 handle)
{
	struct vsp_xen_device *vx = container_of(transport, struct vsp_xen_device, transport);
	struct vsp_xen_region *region;

	list_for_each_entry(region, &vx->regions, list) {
		if (region->ref != handle)
			continue;
		list_del(&region->list);
		vsp_xen_end_region_grants(region);
		vsp_xen_end_grant(region->ref, virt_to_page(region->dir));
		kvfree(region);
		return;
	}
}

/* ------------------------------------------------------- notification */

static void vsp_xen_notify(struct vsp_transport *transport)
{
	struct vsp_xen_device *vx = container_of(transport, struct vsp_xen_device, transport);

	/*
	 * By the interrupt, since that takes no lock.  The port must not be used: in a
	 * restored domain another device may have that number, and the interrupt has
	 * no port then.
	 */
	notify_remote_via_irq(vx->irq);
}

static irqreturn_t vsp_xen_interrupt(int irq, void *data)
{
	struct vsp_xen_device *vx = data;

	atomic_set(&vx->eoi_due, 1);
	vsp_cchan_kick();
	return IRQ_HANDLED;
}

/* Xen slows down a host that notifies without need. */
static void vsp_xen_kick_done(struct vsp_transport *transport, bool useful)
{
	struct vsp_xen_device *vx = container_of(transport, struct vsp_xen_device, transport);

	if (atomic_xchg(&vx->eoi_due, 0))
		xen_irq_lateeoi(vx->irq, useful ? 0 : XEN_EOI_FLAG_SPURIOUS);
}

static const struct vsp_transport_ops vsp_xen_ops = {
	.share = vsp_xen_share,
	.unshare = vsp_xen_unshare,
	.notify = vsp_xen_notify,
	.kick_done = vsp_xen_kick_done,
};

/* --------------------------------------------------------- connection */

static int vsp_xen_publish_device(struct vsp_xen_device *vx)
{
	struct xenbus_device *xdev = vx->xdev;
	struct xenbus_transaction xbt;
	int err;

again:
	err = xenbus_transaction_start(&xbt);
	if (err)
		return err;
	err = xenbus_printf(xbt, xdev->nodename, "protocol", "%u", VSP_ABI_VERSION);
	if (!err)
		err = xenbus_printf(xbt, xdev->nodename, "ring-ref", "%u", vx->ring_ref);
	if (!err)
		err = xenbus_printf(xbt, xdev->nodename, "event-channel", "%u", vx->port);
	if (err) {
		xenbus_transaction_end(xbt, 1);
		return err;
	}
	err = xenbus_transaction_end(xbt, 0);
	if (err == -EAGAIN)
		goto again;
	return err;
}

static int vsp_xen_connect(struct vsp_xen_device *vx)
{
	struct xenbus_device *xdev = vx->xdev;
	struct page *page;
	int err;

	page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!page)
		return -ENOMEM;
	err = vsp_xen_grant_page(vx, page, true);
	if (err < 0)
		goto free_page;
	vx->ring_ref = err;
	vx->transport.cchan = page_address(page);

	err = xenbus_alloc_evtchn(xdev, &vx->port);
	if (err)
		goto end_grant;
	atomic_set(&vx->eoi_due, 0);
	err = bind_evtchn_to_irqhandler_lateeoi(vx->port, vsp_xen_interrupt, 0,
						"vesper", vx);
	if (err < 0)
		goto free_evtchn;
	vx->irq = err;

	err = vsp_transport_register(&vx->transport);
	if (err)
		goto unbind;
	err = vsp_xen_publish_device(vx);
	if (err)
		goto unregister;
	vx->connected = true;
	return xenbus_switch_state(xdev, XenbusStateInitialised);

unregister:
	vsp_transport_unregister(&vx->transport);
unbind:
	unbind_from_irqhandler(vx->irq, vx);	/* closes the port, too */
	goto end_grant;
free_evtchn:
	xenbus_free_evtchn(xdev, vx->port);
end_grant:
	vsp_xen_end_grant(vx->ring_ref, page);
	return err;
free_page:
	__free_page(page);
	return err;
}

static void vsp_xen_disconnect(struct vsp_xen_device *vx)
{
	if (!vx->connected)
		return;
	vx->connected = false;
	/* Otherwise xenbus_switch_state() may take the next state for the present one. */
	vx->xdev->state = XenbusStateInitialising;
	vsp_transport_unregister(&vx->transport);
	unbind_from_irqhandler(vx->irq, vx);
	vsp_xen_end_grant(vx->ring_ref, virt_to_page(vx->transport.cchan));
	vx->transport.cchan = NULL;
}

static void vsp_xen_try_connect(struct vsp_xen_device *vx)
{
	int err = vsp_xen_connect(vx);

	if (err)
		xenbus_dev_fatal(vx->xdev, err, "connecting to the VESPER host");
}

/*
 * The backend waits for a frontend that is connected.  Return whether the host has
 * started over without closing first: from Connected, or by creating the device's
 * nodes again, without the nodes that vsp_xen_publish_device() had written.
 */
static bool vsp_xen_host_has_restarted(struct vsp_xen_device *vx)
{
	return vx->connected &&
	       (vx->xdev->state == XenbusStateConnected ||
		!xenbus_read_unsigned(vx->xdev->nodename, "ring-ref", 0));
}

static void vsp_xen_backend_changed(struct xenbus_device *xdev, enum xenbus_state state)
{
	struct vsp_xen_device *vx = dev_get_drvdata(&xdev->dev);

	switch (state) {
	case XenbusStateInitWait:
		if (vsp_xen_host_has_restarted(vx))
			vsp_xen_disconnect(vx);
		if (!vx->connected)
			vsp_xen_try_connect(vx);
		break;
	case XenbusStateConnected:
		if (!vx->connected)
			break;
		xenbus_switch_state(xdev, XenbusStateConnected);
		vsp_cchan_kick();
		break;
	case XenbusStateClosing:
	case XenbusStateClosed:
		vsp_xen_disconnect(vx);
		xenbus_frontend_closed(xdev);
		break;
	default:
		break;
	}
}

/* ------------------------------------------------------ save, restore */

/*
 * After save and restore, or after migration, the guest runs in a new domain.  Its
 * xenstore has no VESPER device until a daemon creates one.  xenbus does not remove a
 * device whose node is missing, and would ignore a new node of the same name.  So the
 * device is removed here.
 *
 * A watch fires when it is registered, and xenbus registers all watches again after
 * each resume.  This function runs in the thread of all watches, when that resume is
 * over.  A work item of a resume notifier would deadlock.  It would hold the device's
 * lock, for which the resume waits, and would wait for the watch thread, which does
 * the resume (do_suspend(), drivers/xen/manage.c, Linux 6.1).
 */
static void vsp_xen_remove_stale_device(struct xenbus_watch *watch, const char *path,
					const char *token)
{
	struct xenbus_device *xdev;

	if (strcmp(path, watch->node))
		return;
	mutex_lock(&the_device_lock);
	xdev = the_device;
	if (xdev)
		get_device(&xdev->dev);
	mutex_unlock(&the_device_lock);
	if (!xdev)
		return;

	if (!xdev->otherend || !xenbus_exists(XBT_NIL, xdev->nodename, ""))
		device_unregister(&xdev->dev);
	put_device(&xdev->dev);
}

static struct xenbus_watch device_watch = {
	.node = "device/vesper",
	.callback = vsp_xen_remove_stale_device,
};

/* ------------------------------------------------------------- driver */

static int vsp_xen_probe(struct xenbus_device *xdev, const struct xenbus_device_id *id)
{
	struct vsp_xen_device *vx;

	vx = kzalloc(sizeof(*vx), GFP_KERNEL);
	if (!vx)
		return -ENOMEM;

	mutex_lock(&the_device_lock);
	if (the_device) {
		mutex_unlock(&the_device_lock);
		kfree(vx);
		return -EBUSY;
	}
	the_device = xdev;
	mutex_unlock(&the_device_lock);

	vx->xdev = xdev;
	vx->transport.ops = &vsp_xen_ops;
	INIT_LIST_HEAD(&vx->regions);
	dev_set_drvdata(&xdev->dev, vx);
	/* vsp_xen_backend_changed() does the rest: the watch of the state fires at once. */
	return 0;
}

static void vsp_xen_release_device(struct xenbus_device *xdev)
{
	struct vsp_xen_device *vx = dev_get_drvdata(&xdev->dev);

	mutex_lock(&the_device_lock);
	the_device = NULL;
	mutex_unlock(&the_device_lock);
	vsp_xen_disconnect(vx);
	dev_set_drvdata(&xdev->dev, NULL);
	kfree(vx);
}

#ifdef VSP_HAVE_XENBUS_REMOVE_VOID
static void vsp_xen_remove(struct xenbus_device *xdev)
{
	vsp_xen_release_device(xdev);
}
#else
static int vsp_xen_remove(struct xenbus_device *xdev)
{
	vsp_xen_release_device(xdev);
	return 0;
}
#endif

static int vsp_xen_resume(struct xenbus_device *xdev)
{
	vsp_xen_disconnect(dev_get_drvdata(&xdev->dev));
	return 0;	/* the backend's state connects it again, as after probing */
}

static const struct xenbus_device_id vsp_xen_ids[] = {
	{ "vesper" },
	{ "" }
};
MODULE_ALIAS("xen:vesper");

static struct xenbus_driver vsp_xen_driver = {
	.ids = vsp_xen_ids,
	.probe = vsp_xen_probe,
	.remove = vsp_xen_remove,
	.resume = vsp_xen_resume,
	.otherend_changed = vsp_xen_backend_changed,
};

/*
 * Registration waits for minutes if a device exists whose backend does not answer.  So
 * it is done in a work item, and loading this module does not wait.
 */
static int register_err;

static void vsp_xen_register_driver(struct work_struct *work)
{
	register_err = xenbus_register_frontend(&vsp_xen_driver);
	if (register_err) {
		pr_err("vesper_xen: registering with xenbus: %d\n", register_err);
		return;
	}
	register_err = register_xenbus_watch(&device_watch);
	if (register_err) {
		pr_err("vesper_xen: watching device/vesper: %d\n", register_err);
		xenbus_unregister_driver(&vsp_xen_driver);
	}
}

static DECLARE_WORK(register_work, vsp_xen_register_driver);

static int __init vsp_xen_init(void)
{
	if (!xen_domain() || !xen_has_pv_devices())
		return -ENODEV;
	queue_work(system_unbound_wq, &register_work);
	return 0;
}
module_init(vsp_xen_init);

static void __exit vsp_xen_exit(void)
{
	flush_work(&register_work);
	if (register_err)
		return;
	unregister_xenbus_watch(&device_watch);
	xenbus_unregister_driver(&vsp_xen_driver);
}
module_exit(vsp_xen_exit);

MODULE_DESCRIPTION("VESPER frontend on Xen: the guest's link to its host");
MODULE_LICENSE("GPL");
