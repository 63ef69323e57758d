// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: calls the API for probes with wrong arguments.  Loading it succeeds only if
 * each call returns what vesper.h says.  With leave=1 its channel is still exported
 * when it is unloaded, so that the core has to clean up.
 */

#include <linux/module.h>
#include <linux/smp.h>

#include "vesper.h"

static bool leave;
module_param(leave, bool, 0444);

static struct rchan *left;
static int failures;

static void misuse_expect(const char *what, int got, int wanted)
{
	if (got == wanted)
		return;
	pr_err("vsp_misuse: %s: %d instead of %d\n", what, got, wanted);
	failures++;
}

static struct rchan *misuse_open_channel(size_t size, size_t n)
{
	return relay_open(NULL, NULL, size, n, &vsp_relay_callbacks, NULL);
}

static struct dentry *misuse_create_global(const char *filename, struct dentry *parent,
					   umode_t mode, struct rchan_buf *buf, int *is_global)
{
	*is_global = 1;
	return (struct dentry *)buf;
}

static int misuse_remove_global(struct dentry *dentry)
{
	return 0;
}

static VSP_RELAY_CONST struct rchan_callbacks global_callbacks = {
	.create_buf_file = misuse_create_global,
	.remove_buf_file = misuse_remove_global,
};

static void misuse_start_and_close(const char *what, struct rchan *chan, int wanted)
{
	if (!chan) {
		misuse_expect(what, -ENOMEM, wanted);
		return;
	}
	misuse_expect(what, vsp_relay_export_start(chan, "vsp_misuse"), wanted);
	relay_close(chan);
}

static void misuse_pass_bad_arguments(struct rchan *chan)
{
	char name[VSP_NAME_LEN + 1];

	misuse_expect("no channel", vsp_relay_export_start(NULL, "vsp_misuse"), -EINVAL);
	misuse_expect("an error for a channel",
		      vsp_relay_export_start(ERR_PTR(-ENOMEM), "vsp_misuse"), -EINVAL);
	misuse_expect("no name", vsp_relay_export_start(chan, NULL), -EINVAL);
	misuse_expect("empty name", vsp_relay_export_start(chan, ""), -EINVAL);
	memset(name, 'x', VSP_NAME_LEN);
	name[VSP_NAME_LEN] = '\0';
	misuse_expect("long name", vsp_relay_export_start(chan, name), -EINVAL);

	misuse_start_and_close("9 sub-buffers",
			       misuse_open_channel(4096, VSP_MAX_SUBBUFS + 1), -EINVAL);
	misuse_start_and_close("odd size", misuse_open_channel(4097, 2), -EINVAL);
	misuse_start_and_close("large buffer", misuse_open_channel(1024 * 1024, 4), -E2BIG);
	misuse_start_and_close("global channel",
			       relay_open(NULL, NULL, 4096, 2, &global_callbacks, NULL), -EINVAL);
	misuse_expect("channel with a file",
		      !relay_open("vsp_misuse", NULL, 4096, 2, &vsp_relay_callbacks, NULL), true);
}

static void misuse_export_twice(struct rchan *chan)
{
	struct rchan *other = misuse_open_channel(4096, 2);

	misuse_expect("first start", vsp_relay_export_start(chan, "vsp_misuse"), 0);
	misuse_expect("second start", vsp_relay_export_start(chan, "vsp_misuse"), -EEXIST);
	misuse_expect("the channel again", vsp_relay_export_start(chan, "vsp_misuse_2"), -EEXIST);
	if (other) {
		misuse_expect("the name again", vsp_relay_export_start(other, "vsp_misuse"),
			      -EEXIST);
		relay_close(other);
	}
	vsp_relay_export_end("vsp_misuse");
	vsp_relay_export_end("vsp_misuse");
	vsp_relay_export_end("vsp_never_started");
	vsp_relay_export_end(NULL);
}

static void misuse_export_too_many(void)
{
	struct rchan *chan[VSP_MAX_CHANNELS + 1] = { };
	char name[VSP_NAME_LEN];
	int i, started = 0, last = 0;

	for (i = 0; i < ARRAY_SIZE(chan); i++) {
		chan[i] = misuse_open_channel(4096, 2);
		snprintf(name, sizeof(name), "vsp_misuse_%d", i);
		last = vsp_relay_export_start(chan[i], name);
		if (last)
			break;
		started++;
	}
	misuse_expect("one channel more than there is room for", last, -ENOSPC);
	for (i = 0; i < started; i++) {
		snprintf(name, sizeof(name), "vsp_misuse_%d", i);
		vsp_relay_export_end(name);
	}
	for (i = 0; i < ARRAY_SIZE(chan); i++) {
		if (chan[i])
			relay_close(chan[i]);
	}
}

/* None of these may write to a buffer, or crash. */
static void misuse_write_bad_records(struct rchan *chan)
{
	struct vsp_record rec = { .len = sizeof(rec) };
	struct rchan_buf *buf;
	int cpu;

	vsp_update_host_index(NULL);
	vsp_record_write(NULL, &rec);
	cpu = get_cpu();
	buf = *per_cpu_ptr(chan->buf, cpu);
	vsp_update_host_index(buf);	/* not exported */
	vsp_record_write(chan, &rec);
	misuse_expect("record into a channel that is not exported", buf->offset, 0);
	put_cpu();

	misuse_expect("start", vsp_relay_export_start(chan, "vsp_misuse"), 0);
	cpu = get_cpu();
	buf = *per_cpu_ptr(chan->buf, cpu);
	rec.len = sizeof(rec) - 8;
	vsp_record_write(chan, &rec);
	rec.len = sizeof(rec) + 1;
	vsp_record_write(chan, &rec);
	rec.len = chan->subbuf_size + 8;
	vsp_record_write(chan, &rec);
	misuse_expect("records of wrong lengths", buf->offset, 0);
	rec.len = sizeof(rec);
	vsp_record_write(chan, &rec);
	misuse_expect("a right record", buf->offset, sizeof(rec));
	misuse_expect("seq after three that were refused", rec.seq, 3);
	put_cpu();
	vsp_relay_export_end("vsp_misuse");
}

static int __init misuse_init(void)
{
	struct rchan *chan = misuse_open_channel(4096, 2);

	if (!chan)
		return -ENOMEM;
	misuse_pass_bad_arguments(chan);
	misuse_write_bad_records(chan);
	misuse_export_twice(chan);
	misuse_export_too_many();
	if (leave && !failures) {
		left = chan;
		return vsp_relay_export_start(chan, KBUILD_MODNAME);
	}
	relay_close(chan);
	return failures ? -EILSEQ : 0;
}
module_init(misuse_init);

static void __exit misuse_exit(void)
{
	if (left)
		relay_close(left);
}
module_exit(misuse_exit);

MODULE_DESCRIPTION("VESPER tests: wrong use of the probes' API");
MODULE_LICENSE("GPL");
