// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's frontend on QEMU: a driver of the ivshmem device.
 *
 * Shared regions lie in the device's memory, which the host has mapped.  The device's
 * doorbell notifies the host; its interrupt notifies the guest.  The host activates
 * the guest by a word in that memory (struct vsp_shm_head in vesper_abi.h).  The
 * device is described in QEMU's docs/specs/ivshmem-spec, revision 1.
 */

#include <linux/bitmap.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "vesper_transport.h"

#define IVSHMEM_VENDOR		0x1af4
#define IVSHMEM_DEVICE		0x1110
#define BAR_REGISTERS		0
#define BAR_MEMORY		2

/* Registers. */
#define IV_POSITION		8	/* peer number of the guest; -1: no ivshmem server */
#define DOORBELL		12	/* (peer number << 16) | vector */

#define GUEST_ID		0
#define HOST_ID			1

/* Page 0 is the head, page 1 the C-chan page; the core allocates the others. */
#define CCHAN_PAGE		1
#define FIRST_FREE_PAGE		2

/* One device. */
struct vsp_ivshmem {
	struct pci_dev *pdev;
	struct vsp_transport transport;
	void __iomem *registers;
	void *memory;
	struct vsp_shm_head *head;	/* at the start of @memory */
	unsigned int pages;		/* of @memory */
	unsigned long *used;		/* bitmap of @pages; under vsp_lock of the core */
	struct work_struct work;	/* activates or deactivates, as the host wants */
	u32 done;			/* value of head->wanted when @work last ran */
	bool active;			/* set by @work, or while it cannot run */
};

static void vsp_ivshmem_ring_doorbell(struct vsp_ivshmem *vi)
{
	iowrite32(HOST_ID << 16, vi->registers + DOORBELL);
}

/* ------------------------------------------------------------- memory */

static void *vsp_ivshmem_alloc(struct vsp_transport *transport, unsigned int n, u64 *handle)
{
	struct vsp_ivshmem *vi = container_of(transport, struct vsp_ivshmem, transport);
	unsigned long page;
	void *memory;

	page = bitmap_find_next_zero_area(vi->used, vi->pages, FIRST_FREE_PAGE, n, 0);
	if (page >= vi->pages) {
		pr_warn("vesper_ivshmem: no room for %u pages more in the device's memory of %u\n",
			n, vi->pages);
		return NULL;
	}
	bitmap_set(vi->used, page, n);
	memory = vi->memory + page * PAGE_SIZE;
	memset(memory, 0, n * PAGE_SIZE);
	*handle = page * PAGE_SIZE;
	return memory;
}

static void vsp_ivshmem_free(struct vsp_transport *transport, u64 handle, unsigned int n)
{
	struct vsp_ivshmem *vi = container_of(transport, struct vsp_ivshmem, transport);

	bitmap_clear(vi->used, handle / PAGE_SIZE, n);
}

/* QEMU handles the write to the register at once: no lock, no waiting. */
static void vsp_ivshmem_notify(struct vsp_transport *transport)
{
	vsp_ivshmem_ring_doorbell(container_of(transport, struct vsp_ivshmem, transport));
}

static const struct vsp_transport_ops vsp_ivshmem_ops = {
	.alloc = vsp_ivshmem_alloc,
	.free = vsp_ivshmem_free,
	.notify = vsp_ivshmem_notify,
};

/* --------------------------------------------------------- activation */

static void vsp_ivshmem_set_state(struct vsp_ivshmem *vi, enum vsp_shm_state state)
{
	/* Pairs with the host, which reads state before epoch and regions. */
	virt_wmb();
	WRITE_ONCE(vi->head->state, state);
}

static void vsp_ivshmem_activate(struct vsp_ivshmem *vi)
{
	int err;

	err = vsp_transport_register(&vi->transport);
	if (err) {
		pr_err("vesper_ivshmem: %s: cannot share this kernel's probes: %d\n",
		       pci_name(vi->pdev), err);
		return;
	}
	vi->active = true;
	WRITE_ONCE(vi->head->epoch, get_random_u32());
	vsp_ivshmem_set_state(vi, VSP_SHM_ACTIVE);
}

static void vsp_ivshmem_deactivate(struct vsp_ivshmem *vi, enum vsp_shm_state state)
{
	vsp_ivshmem_set_state(vi, state);
	if (vi->active)
		vsp_transport_unregister(&vi->transport);
	vi->active = false;
	vsp_ivshmem_ring_doorbell(vi);
}

static void vsp_ivshmem_update_activation(struct work_struct *work)
{
	struct vsp_ivshmem *vi = container_of(work, struct vsp_ivshmem, work);
	u32 wanted = READ_ONCE(vi->head->wanted);

	if (wanted && !vi->active)
		vsp_ivshmem_activate(vi);
	else if (!wanted && vi->active)
		vsp_ivshmem_deactivate(vi, VSP_SHM_IDLE);
	WRITE_ONCE(vi->done, wanted);
	/* Pairs with the host, which reads answer before state and epoch. */
	virt_wmb();
	WRITE_ONCE(vi->head->answer, wanted);
	vsp_ivshmem_ring_doorbell(vi);
}

static irqreturn_t vsp_ivshmem_interrupt(int irq, void *data)
{
	struct vsp_ivshmem *vi = data;

	if (READ_ONCE(vi->head->wanted) != READ_ONCE(vi->done))
		schedule_work(&vi->work);
	vsp_cchan_kick();
	return IRQ_HANDLED;
}

/* ------------------------------------------------- start and end */

static void vsp_ivshmem_begin(struct vsp_ivshmem *vi)
{
	struct vsp_shm_head *head = vi->head;

	head->magic = VSP_SHM_MAGIC;
	head->version = VSP_ABI_VERSION;
	head->cchan = CCHAN_PAGE * PAGE_SIZE;
	WRITE_ONCE(head->answer, 0);
	vi->done = 0;
	vsp_ivshmem_set_state(vi, VSP_SHM_IDLE);
	/* The host may have set wanted already. */
	schedule_work(&vi->work);
}

/* The interrupt must be disabled. */
static void vsp_ivshmem_end(struct vsp_ivshmem *vi)
{
	cancel_work_sync(&vi->work);
	vsp_ivshmem_deactivate(vi, VSP_SHM_AWAY);
}

static int vsp_ivshmem_check_device(struct pci_dev *pdev)
{
	struct vsp_shm_head *head;
	u32 mark;

	if (pci_resource_len(pdev, BAR_REGISTERS) < DOORBELL + sizeof(u32) ||
	    pci_resource_len(pdev, BAR_MEMORY) < (FIRST_FREE_PAGE + 1) * PAGE_SIZE)
		return -ENODEV;
	head = memremap(pci_resource_start(pdev, BAR_MEMORY), sizeof(*head), MEMREMAP_WB);
	if (!head)
		return -ENOMEM;
	mark = READ_ONCE(head->mark);
	memunmap(head);
	/* Without the mark the device is not VESPER's. */
	return mark == VSP_SHM_MAGIC ? 0 : -ENODEV;
}

static int vsp_ivshmem_map_memory(struct vsp_ivshmem *vi)
{
	resource_size_t size = pci_resource_len(vi->pdev, BAR_MEMORY);

	vi->pages = min_t(resource_size_t, size / PAGE_SIZE, INT_MAX);
	vi->used = bitmap_zalloc(vi->pages, GFP_KERNEL);
	if (!vi->used)
		return -ENOMEM;
	vi->memory = memremap(pci_resource_start(vi->pdev, BAR_MEMORY),
			      (size_t)vi->pages * PAGE_SIZE, MEMREMAP_WB);
	if (!vi->memory) {
		bitmap_free(vi->used);
		return -ENOMEM;
	}
	vi->head = vi->memory;
	vi->transport.cchan = vi->memory + CCHAN_PAGE * PAGE_SIZE;
	return 0;
}

static void vsp_ivshmem_unmap_memory(struct vsp_ivshmem *vi)
{
	memunmap(vi->memory);
	bitmap_free(vi->used);
}

static int vsp_ivshmem_request_interrupt(struct vsp_ivshmem *vi)
{
	struct pci_dev *pdev = vi->pdev;
	int err;

	pci_set_master(pdev);
	err = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (err < 0) {
		pci_err(pdev, "no MSI-X: VESPER needs an ivshmem-doorbell\n");
		return err;
	}
	err = request_irq(pci_irq_vector(pdev, 0), vsp_ivshmem_interrupt, 0, "vesper", vi);
	if (err)
		pci_free_irq_vectors(pdev);
	return err;
}

/*
 * No managed functions (pcim_) are used.  Whether pci_request_regions() is managed
 * depends on the kernel.  A region that is not released would leave a dangling name
 * in /proc/iomem.
 */
static int vsp_ivshmem_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vsp_ivshmem *vi;
	int err;

	err = pci_enable_device(pdev);
	if (err)
		return err;
	err = vsp_ivshmem_check_device(pdev);
	if (err)
		goto disable;

	err = -ENOMEM;
	vi = kzalloc(sizeof(*vi), GFP_KERNEL);
	if (!vi)
		goto disable;
	vi->pdev = pdev;
	vi->transport.ops = &vsp_ivshmem_ops;
	INIT_WORK(&vi->work, vsp_ivshmem_update_activation);

	err = pci_request_regions(pdev, "vesper_ivshmem");
	if (err)
		goto free;
	err = -ENOMEM;
	vi->registers = pci_iomap(pdev, BAR_REGISTERS, 0);
	if (!vi->registers)
		goto release_regions;
	err = -ENODEV;
	if (ioread32(vi->registers + IV_POSITION) != GUEST_ID) {
		pci_err(pdev, "peer number is not %d: no ivshmem server of VESPER\n", GUEST_ID);
		goto unmap_registers;
	}
	err = vsp_ivshmem_map_memory(vi);
	if (err)
		goto unmap_registers;
	err = vsp_ivshmem_request_interrupt(vi);
	if (err)
		goto unmap_memory;
	pci_set_drvdata(pdev, vi);
	vsp_ivshmem_begin(vi);
	return 0;

unmap_memory:
	vsp_ivshmem_unmap_memory(vi);
unmap_registers:
	pci_iounmap(pdev, vi->registers);
release_regions:
	pci_release_regions(pdev);
free:
	kfree(vi);
disable:
	pci_disable_device(pdev);
	return err;
}

static void vsp_ivshmem_remove(struct pci_dev *pdev)
{
	struct vsp_ivshmem *vi = pci_get_drvdata(pdev);

	free_irq(pci_irq_vector(pdev, 0), vi);
	vsp_ivshmem_end(vi);
	pci_free_irq_vectors(pdev);
	vsp_ivshmem_unmap_memory(vi);
	pci_iounmap(pdev, vi->registers);
	pci_release_regions(pdev);
	kfree(vi);
	pci_disable_device(pdev);
}

/* Leave the device before the kernel is shut down: the next one starts anew. */
static void vsp_ivshmem_shutdown(struct pci_dev *pdev)
{
	disable_irq(pci_irq_vector(pdev, 0));
	vsp_ivshmem_end(pci_get_drvdata(pdev));
}

static int __maybe_unused vsp_ivshmem_suspend(struct device *dev)
{
	vsp_ivshmem_shutdown(to_pci_dev(dev));
	return 0;
}

static int __maybe_unused vsp_ivshmem_resume(struct device *dev)
{
	struct pci_dev *pdev = to_pci_dev(dev);

	enable_irq(pci_irq_vector(pdev, 0));
	vsp_ivshmem_begin(pci_get_drvdata(pdev));
	return 0;
}

static SIMPLE_DEV_PM_OPS(vsp_ivshmem_pm, vsp_ivshmem_suspend, vsp_ivshmem_resume);

static const struct pci_device_id vsp_ivshmem_ids[] = {
	{ PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vsp_ivshmem_ids);

static struct pci_driver vsp_ivshmem_driver = {
	.name = "vesper_ivshmem",
	.id_table = vsp_ivshmem_ids,
	.probe = vsp_ivshmem_probe,
	.remove = vsp_ivshmem_remove,
	.shutdown = vsp_ivshmem_shutdown,
	.driver.pm = &vsp_ivshmem_pm,
};
module_pci_driver(vsp_ivshmem_driver);

MODULE_DESCRIPTION("VESPER frontend on QEMU: the guest's link to its host");
MODULE_LICENSE("GPL");
