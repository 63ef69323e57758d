// SPDX-License-Identifier: GPL-2.0-only
/*
 * For bench/kvm: the guest's end of a round trip.  A driver of a second ivshmem device,
 * whose memory starts with struct echo.
 *
 * It answers each interrupt.  Either it writes the number to memory and rings the
 * doorbell, or it writes a record, as a probe does, with the number as the address.
 */

#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "vesper.h"

#define ECHO_MARK	0x45505356	/* "VSPE" */
#define DOORBELL	12
#define HOST_ID		1

struct echo {
	u32 mark;
	u32 number;	/* written by the host */
	u32 record;	/* answer by a record */
	u32 reserved[13];
	u32 answer;
};

static void __iomem *registers;
static struct echo *echo;
static struct rchan *channel;

static irqreturn_t echo_interrupt(int irq, void *data)
{
	u32 number = READ_ONCE(echo->number);
	struct vsp_send_signal rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_SEND_SIGNAL },
		.sig = SIGSEGV,
		.flags = VSP_SIG_ADDR,
		.addr = number,
		.comm = "echo",
		.leader_comm = "echo",
		.parent_comm = "bench",
	};

	if (READ_ONCE(echo->record)) {
		vsp_record_write(channel, &rec.rec);
		return IRQ_HANDLED;
	}
	WRITE_ONCE(echo->answer, number);
	wmb();	/* the answer before the doorbell: pairs with the host's wake-up by it */
	iowrite32(HOST_ID << 16, registers + DOORBELL);
	return IRQ_HANDLED;
}

static int echo_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int err;

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	echo = devm_memremap(&pdev->dev, pci_resource_start(pdev, 2), PAGE_SIZE, MEMREMAP_WB);
	if (IS_ERR(echo))
		return PTR_ERR(echo);
	registers = pcim_iomap(pdev, 0, 0);
	if (!registers || echo->mark != ECHO_MARK)
		return -ENODEV;
	pci_set_master(pdev);
	err = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (err < 0)
		return err;
	return request_irq(pci_irq_vector(pdev, 0), echo_interrupt, 0, "vsp_echo", pdev);
}

static void echo_remove(struct pci_dev *pdev)
{
	free_irq(pci_irq_vector(pdev, 0), pdev);
	pci_free_irq_vectors(pdev);
}

static const struct pci_device_id echo_ids[] = {
	{ PCI_DEVICE(0x1af4, 0x1110) },
	{ }
};

static struct pci_driver echo_driver = {
	.name = "vsp_echo",
	.id_table = echo_ids,
	.probe = echo_probe,
	.remove = echo_remove,
};

static int __init echo_init(void)
{
	int err;

	channel = relay_open(NULL, NULL, 16384, 4, &vsp_relay_callbacks, NULL);
	if (!channel)
		return -ENOMEM;
	/* The host rings as soon as it sees the channel, so the interrupt is requested first. */
	err = pci_register_driver(&echo_driver);
	if (err)
		goto close;
	err = vsp_relay_export_start(channel, KBUILD_MODNAME);
	if (err)
		goto unregister;
	return 0;

unregister:
	pci_unregister_driver(&echo_driver);
close:
	relay_close(channel);
	return err;
}
module_init(echo_init);

static void __exit echo_exit(void)
{
	vsp_relay_export_end(KBUILD_MODNAME);
	pci_unregister_driver(&echo_driver);
	relay_close(channel);
}
module_exit(echo_exit);

MODULE_DESCRIPTION("VESPER benchmark: the guest's end of a round trip");
MODULE_LICENSE("GPL");
