// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: a guest that tries to harm its host.  It writes random values to shared
 * memory, beside the real frontend, which goes on working.
 *
 *	echo SEED COUNT >/proc/vsp_hostile
 *
 * corrupts the memory, in the same ways for the same seed, and notifies the host after
 * most corruptions.  It ends when the host has looked after COUNT of them, or looks no
 * more.  The host has looked if it has armed its bell (enum vsp_bell).  Reading the
 * file gives the numbers of corruptions, of looks, and of notifications.
 */

#include <linux/delay.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/proc_fs.h>
#include <linux/random.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "hostile.h"

#define WAIT_MS		3000
/* After so many corruptions without a look the host has given up. */
#define GIVEN_UP	30

static struct hostile_link *link;
static struct rnd_state rnd;
static unsigned long corrupted, looked_at, rung;

u32 hostile_below(u32 limit)
{
	return prandom_u32_state(&rnd) % limit;
}

static u64 hostile_long_number(void)
{
	return (u64)prandom_u32_state(&rnd) << 32 | prandom_u32_state(&rnd);
}

u64 hostile_edge(void)
{
	const u64 edges[] = {
		0, 1, 2, 3, 7, 8, 23, 24, 4095, 4096, 4097, 16384, 65535, 65536, 1 << 20,
		S32_MAX, 1ULL << 31, U32_MAX, 1ULL << 32, S64_MAX, 1ULL << 63, U64_MAX,
		VSP_MAX_REGION_PAGES, VSP_MAX_REGION_PAGES + 1, -8ULL, -4096ULL,
		hostile_below(64), hostile_long_number(), link->edge(), link->edge(), link->edge(),
	};

	return edges[hostile_below(ARRAY_SIZE(edges))];
}

static void hostile_ring_host(unsigned int times)
{
	for (rung += times; times; times--) {
		link->ring();
		if (times % 1024 == 0)
			cond_resched();
	}
}

static void hostile_write_noise(void *page)
{
	unsigned int at = hostile_below(VSP_PAGE_SIZE);
	unsigned int len = min_t(unsigned int, 1 + hostile_below(256), VSP_PAGE_SIZE - at);
	u8 bytes[256];

	prandom_bytes_state(&rnd, bytes, len);
	memcpy(page + at, bytes, len);
}

/* ----------------------------------------------------------- structures */

static struct vsp_channel *hostile_any_channel(void)
{
	return &link->table->channel[hostile_below(VSP_MAX_CHANNELS)];
}

/* Return the index of a CPU in an open channel, or memory behind the channel table. */
static struct vsp_index *hostile_any_index(void)
{
	unsigned int tries;

	for (tries = 0; tries < 32; tries++) {
		u64 handle = READ_ONCE(hostile_any_channel()->index.handle);
		struct vsp_index *index = link->page(handle, 0);

		if (index)
			return index + hostile_below(2);
	}
	return (void *)(link->table + 1);
}

static void *hostile_any_structure(void)
{
	void *pages[] = {
		link->cchan, link->table, hostile_any_index(), link->life,
		link->slot[hostile_below(VSP_WORDS_KINDS)],
	};

	return pages[hostile_below(ARRAY_SIZE(pages))];
}

/* --------------------------------------------------------- corruptions */

static void hostile_corrupt_anywhere(void)
{
	hostile_write_noise(PTR_ALIGN_DOWN(link->any(), VSP_PAGE_SIZE));
}

static void hostile_corrupt_word(void)
{
	void *page = PTR_ALIGN_DOWN(hostile_below(8) ? hostile_any_structure() : link->any(),
				    VSP_PAGE_SIZE);
	unsigned int at = hostile_below(VSP_PAGE_SIZE / 8) * 8;
	u64 value = hostile_edge();

	memcpy(page + at, &value, hostile_below(2) ? 4 : 8);
}

static void hostile_corrupt_position(void)
{
	struct vsp_index *index = hostile_any_index();

	switch (hostile_below(4)) {
	case 0:
		WRITE_ONCE(index->pos, hostile_edge());
		break;
	case 1:
		WRITE_ONCE(index->pos, index->pos + hostile_edge());
		break;
	case 2:
		WRITE_ONCE(index->pad[hostile_below(VSP_MAX_SUBBUFS)], hostile_edge());
		break;
	default:
		WRITE_ONCE(index->read, hostile_edge());
	}
}

static void hostile_corrupt_buffer(void)
{
	struct vsp_index *index = hostile_any_index();

	if (hostile_below(2))
		WRITE_ONCE(index->buffer.handle, hostile_edge());
	else
		WRITE_ONCE(index->buffer.pages, hostile_edge());
}

/* Write the head of a record where one may be. */
static void hostile_corrupt_record(void)
{
	void *page = link->page(READ_ONCE(hostile_any_index()->buffer.handle), hostile_below(16));
	struct vsp_record rec = {
		.len = hostile_edge(), .event = hostile_below(16), .cpu = hostile_edge(),
		.seq = hostile_edge(), .time_ns = hostile_edge(),
	};

	if (page)
		memcpy(page + hostile_below((VSP_PAGE_SIZE - sizeof(rec)) / 8) * 8, &rec,
		       sizeof(rec));
}

static void hostile_corrupt_channel(void)
{
	struct vsp_channel *to = hostile_any_channel();
	struct vsp_channel entry = {
		.state = hostile_below(3), .generation = hostile_edge(),
		.subbuf_size = hostile_edge(), .n_subbufs = hostile_below(10),
		.nr_cpus = hostile_edge(),
		.index.handle = hostile_edge(),
		.index.pages = hostile_below(4) ? 1 : hostile_edge(),
	};

	if (hostile_below(2))
		entry = *to;
	switch (hostile_below(4)) {
	case 0:
		entry.generation = hostile_edge();
		break;
	case 1:
		entry.subbuf_size = hostile_edge();
		entry.n_subbufs = hostile_edge();
		break;
	case 2:
		prandom_bytes_state(&rnd, entry.modname, sizeof(entry.modname));
		break;
	default:
		snprintf(entry.modname, sizeof(entry.modname), "%u", prandom_u32_state(&rnd));
	}
	memcpy(to, &entry, sizeof(entry));
	WRITE_ONCE(link->table->generation, link->table->generation + 1);
}

static void hostile_corrupt_state(void)
{
	if (hostile_below(2))
		WRITE_ONCE(link->cchan->asleep, hostile_below(3));
	else
		WRITE_ONCE(link->cchan->bell, VSP_BELL_RUNG + hostile_below(3));
}

static void hostile_corrupt_link(void)
{
	link->own();
}

/* Send replies twice, never, too many, or wrong ones. */
static void hostile_corrupt_reply(void)
{
	struct vsp_cchan_ring *to_host = &link->cchan->to_host;
	struct vsp_cchan_ring *to_guest = &link->cchan->to_guest;
	unsigned int i;
	u8 *slot;

	switch (hostile_below(6)) {
	case 0:
		WRITE_ONCE(to_host->prod, to_host->prod + 1);
		break;
	case 1:
		WRITE_ONCE(to_host->prod, to_host->prod - 1);
		break;
	case 2:
		WRITE_ONCE(to_host->prod, hostile_edge());
		break;
	case 3:
		WRITE_ONCE(to_guest->cons, hostile_edge());
		break;
	case 4:
		WRITE_ONCE(to_guest->prod, to_guest->prod - 1);
		break;
	default:
		slot = to_host->slot[hostile_below(VSP_CCHAN_SLOTS)];
		for (i = 0; i < VSP_MSG_SIZE; i++)
			slot[i] ^= 0x55;
	}
}

/* Hide requests from the real core for a while. */
static void hostile_delay_requests(void)
{
	struct vsp_cchan_ring *ring_to = &link->cchan->to_guest;
	u32 prod = READ_ONCE(ring_to->prod);

	WRITE_ONCE(ring_to->prod, READ_ONCE(ring_to->cons));
	msleep(20 + hostile_below(200));
	WRITE_ONCE(ring_to->prod, prod);
}

/* Switch a word between two values while the host reads it. */
static void hostile_flicker_word(void)
{
	void *page = PTR_ALIGN_DOWN(hostile_any_structure(), VSP_PAGE_SIZE);
	u64 *at = page + hostile_below(64) * 8;
	u64 was = READ_ONCE(*at), other = hostile_edge();
	unsigned int i;

	hostile_ring_host(1);
	for (i = 0; i < 20000; i++)
		WRITE_ONCE(*at, i & 1 ? was : other);
}

static void hostile_corrupt_crash_log(void)
{
	u32 *seq = &link->slot[hostile_below(VSP_WORDS_KINDS)]->seq;

	WRITE_ONCE(*seq, hostile_below(2) ? *seq + 1 + hostile_below(3) : hostile_edge());
}

/* One of these is chosen at random: what stands twice is twice as likely. */
static void (*const corruptions[])(void) = {
	hostile_corrupt_anywhere, hostile_corrupt_anywhere,
	hostile_corrupt_word, hostile_corrupt_word,
	hostile_corrupt_position, hostile_corrupt_position,
	hostile_corrupt_buffer,
	hostile_corrupt_record, hostile_corrupt_record,
	hostile_corrupt_channel, hostile_corrupt_channel,
	hostile_corrupt_state, hostile_corrupt_link, hostile_corrupt_reply,
	hostile_delay_requests, hostile_flicker_word, hostile_corrupt_crash_log,
};

/* Return whether the host has looked after the corruption. */
static bool hostile_corrupt_once(void)
{
	u32 more = hostile_below(1000);
	bool looked;

	WRITE_ONCE(link->cchan->bell, VSP_BELL_RUNG);
	corruptions[hostile_below(ARRAY_SIZE(corruptions))]();
	hostile_ring_host(more == 0 ? 1000000 : more < 20 ? 10000 : more < 850);
	usleep_range(100, 100 + hostile_below(8000));
	looked = READ_ONCE(link->cchan->bell) == VSP_BELL_ARMED;
	if (link->mend)
		link->mend();
	corrupted++;
	looked_at += looked;
	return looked;
}

/* -------------------------------------------------------------- control */

static bool hostile_is_shared(void)
{
	unsigned int i;

	if (!link->find())
		return false;
	for (i = 0; i < VSP_MAX_CHANNELS; i++) {
		if (link->table->channel[i].state == VSP_CHANNEL_OPEN)
			return true;
	}
	return false;
}

static void hostile_corrupt_often(unsigned int count)
{
	unsigned int missed = 0;

	while (count && missed < GIVEN_UP) {
		if (hostile_corrupt_once()) {
			missed = 0;
			count--;
		} else {
			missed++;
		}
	}
}

/* Save or restore pages that the core would not write again: heads and free channels. */
static void hostile_save_heads(bool put_back)
{
	static u8 kept[3][VSP_PAGE_SIZE];
	void *pages[] = { link->table, link->life, PTR_ALIGN_DOWN(link->slot[0], VSP_PAGE_SIZE) };
	unsigned int i;

	BUILD_BUG_ON(ARRAY_SIZE(pages) != ARRAY_SIZE(kept));
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		if (put_back)
			memcpy(pages[i], kept[i], VSP_PAGE_SIZE);
		else
			memcpy(kept[i], pages[i], VSP_PAGE_SIZE);
	}
}

static ssize_t hostile_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	unsigned int tries, seed, count;
	char line[32] = "";

	if (copy_from_user(line, text, min(len, sizeof(line) - 1)))
		return -EFAULT;
	if (sscanf(line, "%u %u", &seed, &count) != 2)
		return -EINVAL;
	for (tries = 0; !hostile_is_shared(); tries++) {
		if (tries == WAIT_MS)
			return -ETIMEDOUT;
		usleep_range(1000, 2000);
	}
	prandom_seed_state(&rnd, seed);
	hostile_save_heads(false);
	hostile_corrupt_often(count);
	hostile_save_heads(true);
	return len;
}

static int hostile_show(struct seq_file *file, void *unused)
{
	seq_printf(file, "corrupted %lu looked at %lu rung %lu\n", corrupted, looked_at, rung);
	return 0;
}

static int hostile_open(struct inode *inode, struct file *file)
{
	return single_open(file, hostile_show, NULL);
}

static const struct proc_ops hostile_ops = {
	.proc_open = hostile_open,
	.proc_read = seq_read,
	.proc_release = single_release,
	.proc_write = hostile_write,
};

static int __init hostile_init(void)
{
	int err;

	link = &hostile_ivshmem;
	err = link->open();
	if (err == -ENODEV) {
		link = &hostile_xen;
		err = link->open();
	}
	if (err)
		return err;
	if (proc_create("vsp_hostile", 0600, NULL, &hostile_ops))
		return 0;
	link->close();
	return -ENOMEM;
}
module_init(hostile_init);

static void __exit hostile_exit(void)
{
	remove_proc_entry("vsp_hostile", NULL);
	link->close();
}
module_exit(hostile_exit);

MODULE_DESCRIPTION("VESPER: test of a hostile guest");
MODULE_LICENSE("GPL");
