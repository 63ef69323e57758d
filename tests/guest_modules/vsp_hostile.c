// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest that wants to harm its host, for tests: writes at random over all
 * that it shares on QEMU, beside the real frontend, which goes on working.
 *
 *	echo SEED COUNT >/proc/vsp_hostile
 *
 * makes corruptions, the same ones for the same seed, and rings after most of
 * them, until the host has looked after so many, or does not look any more.
 * Whether it has looked shows its bell (enum vsp_bell), which it arms then.
 * Reading tells how many there were in all, looked at, and how many rings.
 */

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/prandom.h>
#include <linux/proc_fs.h>
#include <linux/random.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "vesper_abi.h"

#define DOORBELL	12
#define HOST_ID		1
/* Where the frontend puts things: from the beginning on. */
#define USED		(1UL << 20)
#define WAIT_MS		3000
/* Corruptions in a row without a look: the host has given up. */
#define GIVEN_UP	30

static struct pci_dev *pdev;
static void *memory;
static unsigned long size;
static void __iomem *registers;
static struct vsp_table *table;
static void *life, *words;
static struct rnd_state rnd;
static unsigned long corrupted, looked_at, rung;

static u32 below(u32 limit)
{
	return prandom_u32_state(&rnd) % limit;
}

static u64 long_number(void)
{
	return (u64)prandom_u32_state(&rnd) << 32 | prandom_u32_state(&rnd);
}

/* What readers get wrong, if anything. */
static u64 edge(void)
{
	const u64 edges[] = {
		0, 1, 2, 3, 7, 8, 23, 24, 4095, 4096, 4097, 16384, 65535, 65536, 1 << 20,
		S32_MAX, 1ULL << 31, U32_MAX, 1ULL << 32, S64_MAX, 1ULL << 63, U64_MAX,
		size, size - 1, size - 4096, VSP_MAX_REGION_PAGES, VSP_MAX_REGION_PAGES + 1,
		-8ULL, -4096ULL, below(size / 4096) * 4096, below(size), below(64), long_number(),
	};

	return edges[below(ARRAY_SIZE(edges))];
}

static void ring(unsigned int times)
{
	for (rung += times; times; times--) {
		iowrite32(HOST_ID << 16, registers + DOORBELL);
		if (times % 1024 == 0)
			cond_resched();
	}
}

/* ------------------------------------------------------------- writing */

static void put(unsigned long at, const void *from, size_t len)
{
	if (at >= size)
		return;
	memcpy(memory + at, from, min_t(size_t, len, size - at));
}

static void noise(unsigned long at, size_t len)
{
	u8 bytes[256];

	prandom_bytes_state(&rnd, bytes, sizeof(bytes));
	put(at, bytes, min(len, sizeof(bytes)));
}

static unsigned long place(const void *at)
{
	return at - memory;
}

static struct vsp_shm_head *head(void)
{
	return memory;
}

static struct vsp_cchan *cchan(void)
{
	return memory + VSP_PAGE_SIZE;
}

static struct vsp_channel *channel(void)
{
	return &table->channel[below(VSP_MAX_CHANNELS)];
}

/* An open channel's index of a CPU, or the page after the table. */
static struct vsp_index *index_of_any(void)
{
	unsigned int tries;

	for (tries = 0; tries < 32; tries++) {
		u64 handle = READ_ONCE(channel()->index.handle);

		if (handle && handle % VSP_PAGE_SIZE == 0 && handle < size)
			return (struct vsp_index *)(memory + handle) + below(2);
	}
	return (void *)table + VSP_PAGE_SIZE;
}

/* The first two end the session, as a rule. */
static void *any_page(void)
{
	void *pages[] = { memory, cchan(), table, index_of_any(), life, words };

	return pages[below(8) ? 2 + below(4) : below(2)];
}

/* --------------------------------------------------------- corruptions */

static void anywhere(void)
{
	unsigned long first = below(8) ? 2 * VSP_PAGE_SIZE : 0;

	noise(first + below(below(4) ? USED : size), 1 + below(256));
}

static void any_word(void)
{
	unsigned long at = place(any_page()) + below(512) * 8;
	u64 value = edge();

	put(at, &value, below(2) ? 4 : 8);
}

static void position(void)
{
	struct vsp_index *index = index_of_any();

	switch (below(4)) {
	case 0:
		WRITE_ONCE(index->pos, edge());
		break;
	case 1:
		WRITE_ONCE(index->pos, index->pos + edge());
		break;
	case 2:
		WRITE_ONCE(index->pad[below(VSP_MAX_SUBBUFS)], edge());
		break;
	default:
		WRITE_ONCE(index->read, edge());
	}
}

static void buffer(void)
{
	struct vsp_index *index = index_of_any();

	if (below(2))
		WRITE_ONCE(index->buffer.handle, edge());
	else
		WRITE_ONCE(index->buffer.pages, edge());
}

/* A record's head where one may lie. */
static void record(void)
{
	u64 handle = READ_ONCE(index_of_any()->buffer.handle);
	struct vsp_record rec = {
		.len = edge(), .event = below(16), .cpu = edge(), .seq = edge(), .time_ns = edge(),
	};

	if (handle < size)
		put(handle + below(65536 / 8) * 8, &rec, sizeof(rec));
}

static void export(void)
{
	struct vsp_channel *to = channel();
	struct vsp_channel entry = {
		.state = below(3), .generation = edge(), .subbuf_size = edge(),
		.n_subbufs = below(10), .nr_cpus = edge(),
		.index = { .handle = edge(), .pages = below(4) ? 1 : edge() },
	};

	if (below(2))
		entry = *to;
	switch (below(4)) {
	case 0:
		entry.generation = edge();
		break;
	case 1:
		entry.subbuf_size = edge();
		entry.n_subbufs = edge();
		break;
	case 2:
		prandom_bytes_state(&rnd, entry.modname, sizeof(entry.modname));
		break;
	default:
		snprintf(entry.modname, sizeof(entry.modname), "%u", prandom_u32_state(&rnd));
	}
	put(place(to), &entry, sizeof(entry));
	WRITE_ONCE(table->generation, table->generation + 1);
}

static void state(void)
{
	switch (below(4) ? 5 + below(2) : below(5)) {
	case 0:
		WRITE_ONCE(head()->state, below(4));
		break;
	case 1:
		WRITE_ONCE(head()->epoch, edge());
		break;
	case 2:
		WRITE_ONCE(head()->answer, edge());
		break;
	case 3:
		WRITE_ONCE(head()->cchan, edge());
		break;
	case 4:
		WRITE_ONCE(head()->wanted, edge());
		break;
	case 5:
		WRITE_ONCE(cchan()->asleep, below(3));
		break;
	default:
		WRITE_ONCE(cchan()->bell, VSP_BELL_RUNG + below(3));
	}
}

/* Twice, never, wrongly, or too many. */
static void answer(void)
{
	struct vsp_cchan_ring *to_host = &cchan()->to_host, *to_guest = &cchan()->to_guest;
	unsigned int i;
	u8 *slot;

	switch (below(6)) {
	case 0:
		WRITE_ONCE(to_host->prod, to_host->prod + 1);
		break;
	case 1:
		WRITE_ONCE(to_host->prod, to_host->prod - 1);
		break;
	case 2:
		WRITE_ONCE(to_host->prod, edge());
		break;
	case 3:
		WRITE_ONCE(to_guest->cons, edge());
		break;
	case 4:
		WRITE_ONCE(to_guest->prod, to_guest->prod - 1);
		break;
	default:
		slot = to_host->slot[below(VSP_CCHAN_SLOTS)];
		for (i = 0; i < VSP_MSG_SIZE; i++)
			slot[i] ^= 0x55;
	}
}

/* Requests are hidden from the real core for a while. */
static void late(void)
{
	struct vsp_cchan_ring *ring_to = &cchan()->to_guest;
	u32 prod = READ_ONCE(ring_to->prod);

	WRITE_ONCE(ring_to->prod, READ_ONCE(ring_to->cons));
	msleep(20 + below(200));
	WRITE_ONCE(ring_to->prod, prod);
}

/* Between two values, while the host reads. */
static void flicker(void)
{
	u64 *at = any_page() + below(64) * 8;
	u64 was = READ_ONCE(*at), other = edge();
	unsigned int i;

	ring(1);
	for (i = 0; i < 20000; i++)
		WRITE_ONCE(*at, i & 1 ? was : other);
}

static void last_words(void)
{
	u32 *seq = words + 64 + below(2) * sizeof(struct vsp_words_slot);

	WRITE_ONCE(*seq, below(2) ? *seq + 1 + below(3) : edge());
}

static void (*const ways[])(void) = {
	anywhere, anywhere, any_word, any_word, position, position, buffer, record, record,
	export, export, state, answer, late, flicker, last_words,
};

/* Returns whether the host has looked since. */
static bool corrupt(void)
{
	u32 mark = head()->mark, more = below(1000);
	bool looked;

	WRITE_ONCE(cchan()->bell, VSP_BELL_RUNG);
	ways[below(ARRAY_SIZE(ways))]();
	/* Without it the frontend would not come back, and that would be all. */
	WRITE_ONCE(head()->mark, mark);
	ring(more == 0 ? 1000000 : more < 20 ? 10000 : more < 850);
	usleep_range(100, 100 + below(8000));
	looked = READ_ONCE(cchan()->bell) == VSP_BELL_ARMED;
	corrupted++;
	looked_at += looked;
	return looked;
}

/* ------------------------------------------------------------ structures */

static void *find(u32 magic)
{
	unsigned long at;

	for (at = 2 * VSP_PAGE_SIZE; at < USED; at += VSP_PAGE_SIZE) {
		if (*(u32 *)(memory + at) == magic)
			return memory + at;
	}
	return NULL;
}

static bool is_shared(void)
{
	unsigned int i;

	table = find(VSP_TABLE_MAGIC);
	life = find(VSP_LIFE_MAGIC);
	words = find(VSP_WORDS_MAGIC);
	if (READ_ONCE(head()->state) != VSP_SHM_ACTIVE || !table || !life || !words)
		return false;
	for (i = 0; i < VSP_MAX_CHANNELS; i++) {
		if (table->channel[i].state == VSP_CHANNEL_OPEN)
			return true;
	}
	return false;
}

/* -------------------------------------------------------------- control */

static ssize_t hostile_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	unsigned int tries, seed, count, missed = 0;
	char line[32] = "";

	if (copy_from_user(line, text, min(len, sizeof(line) - 1)))
		return -EFAULT;
	if (sscanf(line, "%u %u", &seed, &count) != 2)
		return -EINVAL;
	for (tries = 0; !is_shared(); tries++) {
		if (tries == WAIT_MS)
			return -ETIMEDOUT;
		usleep_range(1000, 2000);
	}
	prandom_seed_state(&rnd, seed);
	while (count && missed < GIVEN_UP) {
		if (corrupt()) {
			missed = 0;
			count--;
		} else {
			missed++;
		}
	}
	return len;
}

static int show(struct seq_file *file, void *unused)
{
	seq_printf(file, "corrupted %lu looked at %lu rung %lu\n", corrupted, looked_at, rung);
	return 0;
}

static int hostile_open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

static const struct proc_ops hostile_ops = {
	.proc_open = hostile_open,
	.proc_read = seq_read,
	.proc_release = single_release,
	.proc_write = hostile_write,
};

static int __init hostile_init(void)
{
	int err = -ENOMEM;

	pdev = pci_get_device(0x1af4, 0x1110, NULL);
	if (!pdev)
		return -ENODEV;
	size = pci_resource_len(pdev, 2);
	memory = memremap(pci_resource_start(pdev, 2), size, MEMREMAP_WB);
	if (!memory)
		goto put;
	registers = ioremap(pci_resource_start(pdev, 0), PAGE_SIZE);
	if (!registers)
		goto unmap;
	if (proc_create("vsp_hostile", 0600, NULL, &hostile_ops))
		return 0;
	iounmap(registers);
unmap:
	memunmap(memory);
put:
	pci_dev_put(pdev);
	return err;
}
module_init(hostile_init);

static void __exit hostile_exit(void)
{
	remove_proc_entry("vsp_hostile", NULL);
	iounmap(registers);
	memunmap(memory);
	pci_dev_put(pdev);
}
module_exit(hostile_exit);

MODULE_DESCRIPTION("VESPER: test of a hostile guest");
MODULE_LICENSE("GPL");
