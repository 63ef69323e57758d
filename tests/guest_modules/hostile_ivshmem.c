// SPDX-License-Identifier: GPL-2.0-only
/* The link of a hostile guest on QEMU: the memory of the ivshmem device. */

#include <linux/io.h>
#include <linux/pci.h>

#include "hostile.h"

#define DOORBELL	12
#define HOST_ID		1
/* The frontend allocates from the start: so many bytes are searched. */
#define USED		(1UL << 20)

static struct pci_dev *pdev;
static void *memory;
static unsigned long size;
static void __iomem *registers;
static u32 mark;

static struct vsp_shm_head *hostile_ivshmem_head(void)
{
	return memory;
}

static void *hostile_ivshmem_page(u64 handle, unsigned int n)
{
	u64 at = handle + (u64)n * VSP_PAGE_SIZE;

	if (!handle || handle % VSP_PAGE_SIZE || handle >= size || at >= size)
		return NULL;
	return memory + at;
}

/* Seldom the first two pages: their corruption mostly ends the session. */
static void *hostile_ivshmem_any(void)
{
	unsigned int first = hostile_below(8) ? 2 : 0;
	unsigned long end = hostile_below(4) ? USED : size;

	return memory + (first + hostile_below(end / VSP_PAGE_SIZE - first)) * VSP_PAGE_SIZE;
}

static u64 hostile_ivshmem_edge(void)
{
	const u64 edges[] = { size, size - 1, size - 4096, hostile_below(size / 4096) * 4096ULL };

	return edges[hostile_below(ARRAY_SIZE(edges))];
}

static void hostile_ivshmem_own(void)
{
	switch (hostile_below(5)) {
	case 0:
		WRITE_ONCE(hostile_ivshmem_head()->state, hostile_below(4));
		break;
	case 1:
		WRITE_ONCE(hostile_ivshmem_head()->epoch, hostile_edge());
		break;
	case 2:
		WRITE_ONCE(hostile_ivshmem_head()->answer, hostile_edge());
		break;
	case 3:
		WRITE_ONCE(hostile_ivshmem_head()->cchan, hostile_edge());
		break;
	default:
		WRITE_ONCE(hostile_ivshmem_head()->wanted, hostile_edge());
	}
}

/* Without the mark the frontend would not probe the device again. */
static void hostile_ivshmem_mend(void)
{
	WRITE_ONCE(hostile_ivshmem_head()->mark, mark);
}

static void hostile_ivshmem_ring(void)
{
	iowrite32(HOST_ID << 16, registers + DOORBELL);
}

static void *hostile_ivshmem_find_magic(u32 magic)
{
	unsigned long at;

	for (at = 2 * VSP_PAGE_SIZE; at < USED; at += VSP_PAGE_SIZE) {
		if (*(u32 *)(memory + at) == magic)
			return memory + at;
	}
	return NULL;
}

static bool hostile_ivshmem_find(void)
{
	struct hostile_link *link = &hostile_ivshmem;
	struct vsp_words *words = hostile_ivshmem_find_magic(VSP_WORDS_MAGIC);
	unsigned int i;

	mark = hostile_ivshmem_head()->mark;
	link->cchan = memory + VSP_PAGE_SIZE;
	link->table = hostile_ivshmem_find_magic(VSP_TABLE_MAGIC);
	link->life = hostile_ivshmem_find_magic(VSP_LIFE_MAGIC);
	for (i = 0; words && i < VSP_WORDS_KINDS; i++)
		link->slot[i] = &words->slot[i];
	return READ_ONCE(hostile_ivshmem_head()->state) == VSP_SHM_ACTIVE && link->table &&
	       link->life && words;
}

static int hostile_ivshmem_open(void)
{
	pdev = pci_get_device(0x1af4, 0x1110, NULL);
	if (!pdev)
		return -ENODEV;
	size = pci_resource_len(pdev, 2);
	memory = memremap(pci_resource_start(pdev, 2), size, MEMREMAP_WB);
	if (!memory)
		goto put;
	registers = ioremap(pci_resource_start(pdev, 0), PAGE_SIZE);
	if (registers)
		return 0;
	memunmap(memory);
put:
	pci_dev_put(pdev);
	return -ENOMEM;
}

static void hostile_ivshmem_close(void)
{
	iounmap(registers);
	memunmap(memory);
	pci_dev_put(pdev);
}

struct hostile_link hostile_ivshmem = {
	.open = hostile_ivshmem_open,
	.close = hostile_ivshmem_close,
	.find = hostile_ivshmem_find,
	.page = hostile_ivshmem_page,
	.any = hostile_ivshmem_any,
	.edge = hostile_ivshmem_edge,
	.own = hostile_ivshmem_own,
	.mend = hostile_ivshmem_mend,
	.ring = hostile_ivshmem_ring,
};
