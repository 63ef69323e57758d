// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table is made from /1/mountinfo of a private procfs mount, and from the super
 * blocks that iterate_supers_type() finds.  Before Linux 6.8 that finds none of btrfs:
 * their type is not the registered one, but another of the same name.
 *
 * A poll of mountinfo is woken when a file system is mounted or unmounted.  The table
 * is made anew a moment later: a file system that was just mounted is not in it yet.
 */

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/string_helpers.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "fs_table.h"
#include "vesper.h"

#define MAX_ENTRIES	64
/* Bytes.  Longer lines are ignored: a path has at most 4096 bytes, escaped or not. */
#define LINES_SIZE	16384
/* Delay after a change: file systems are often mounted one after the other. */
#define SETTLE_MS	100
/* Limit for the first table. */
#define START_MS	1000

struct fs_table {
	unsigned int n;
	struct fs_table_entry entry[MAX_ENTRIES];
};

/* Types that the probe has a hook for. */
static const char * const fs_types[] = { "btrfs", "ext3", "ext4", "ocfs2", "xfs" };

static struct fs_table __rcu *fs_table;

static struct vfsmount *proc_mnt;
static struct file *mountinfo;
static wait_queue_head_t *mounts_changed;

static void fs_table_refresh(struct work_struct *work);
static DECLARE_DELAYED_WORK(refresh_work, fs_table_refresh);
static DECLARE_COMPLETION(refreshed);

/* -------------------------------------------------------------- lookup */

const struct fs_table_entry *fs_table_find_dev(dev_t dev)
{
	const struct fs_table *table = rcu_dereference(fs_table);
	unsigned int i;

	for (i = 0; table && i < table->n; i++) {
		if (table->entry[i].dev == dev)
			return &table->entry[i];
	}
	return NULL;
}

const struct fs_table_entry *fs_table_find_info(const char *type, const void *info)
{
	const struct fs_table *table = rcu_dereference(fs_table);
	const struct fs_table_entry *only = NULL;
	unsigned int i, n = 0;

	for (i = 0; table && i < table->n; i++) {
		const struct fs_table_entry *entry = &table->entry[i];

		if (entry->info == info)
			return entry;
		if (!entry->info && !strcmp(entry->type, type)) {
			only = entry;
			n++;
		}
	}
	return n == 1 ? only : NULL;
}

/* ------------------------------------------------------------- refresh */

/* Return the entry of a device, a new one if there is none; NULL if there is no room. */
static struct fs_table_entry *fs_table_get_entry(struct fs_table *table, dev_t dev)
{
	unsigned int i;

	for (i = 0; i < table->n; i++) {
		if (table->entry[i].dev == dev)
			return &table->entry[i];
	}
	if (table->n == MAX_ENTRIES)
		return NULL;
	table->entry[table->n].dev = dev;
	return &table->entry[table->n++];
}

static void fs_table_copy_path(char *to, const char *path)
{
	size_t len = strlen(path);

	if (len >= VSP_MOUNT_LEN) {
		path += len - VSP_MOUNT_LEN + 1;
		path += *path == '/';
	}
	strscpy(to, path, VSP_MOUNT_LEN);
}

/* "36 35 98:0 /root /path rw,noatime shared:1 - ext4 /dev/vda rw" */
static void fs_table_note_mount(struct fs_table *table, char *line)
{
	unsigned int major, minor;
	struct fs_table_entry *entry;
	char *path, *type, *rest, *source;
	int at = 0;

	if (sscanf(line, "%*d %*d %u:%u %*s %n", &major, &minor, &at) != 2 || !at)
		return;
	path = line + at;
	rest = strstr(path, " - ");
	if (!rest)
		return;
	rest += strlen(" - ");
	path = strsep(&path, " ");
	type = strsep(&rest, " ");
	source = strsep(&rest, " ");
	if (!source || match_string(fs_types, ARRAY_SIZE(fs_types), type) < 0)
		return;
	entry = fs_table_get_entry(table, MKDEV(major, minor));
	if (!entry || *entry->mount)
		return;
	strscpy(entry->type, type, VSP_FSTYPE_LEN);
	strscpy(entry->disk, kbasename(source), VSP_DISK_LEN);
	string_unescape_inplace(path, UNESCAPE_OCTAL);
	fs_table_copy_path(entry->mount, path);
}

static void fs_table_read_mounts(struct fs_table *table, char *lines)
{
	size_t kept = 0;
	loff_t pos = 0;
	ssize_t got;

	while ((got = kernel_read(mountinfo, lines + kept, LINES_SIZE - kept, &pos)) > 0) {
		char *line = lines, *end;

		lines[kept + got] = '\0';
		while ((end = strchr(line, '\n'))) {
			*end = '\0';
			fs_table_note_mount(table, line);
			line = end + 1;
		}
		kept = strlen(line);
		if (kept == LINES_SIZE)
			kept = 0;
		memmove(lines, line, kept);
	}
}

/* Also called for a file system that process 1 does not see mounted. */
static void fs_table_note_super(struct super_block *sb, void *arg)
{
	struct fs_table_entry *entry = fs_table_get_entry(arg, sb->s_dev);

	if (!entry)
		return;
	entry->info = sb->s_fs_info;
	strscpy(entry->disk, sb->s_id, VSP_DISK_LEN);
}

/* Only for types that are mounted: get_fs_type() would load the module of others. */
static void fs_table_find_supers(struct fs_table *table)
{
	struct file_system_type *type;
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(fs_types); i++) {
		for (j = 0; j < table->n; j++) {
			if (!strcmp(table->entry[j].type, fs_types[i]))
				break;
		}
		type = j < table->n ? get_fs_type(fs_types[i]) : NULL;
		if (!type)
			continue;
		iterate_supers_type(type, fs_table_note_super, table);
		module_put(type->owner);
	}
}

/*
 * Make a new table.  There is one work item, which never runs twice at the same time.
 *
 * iterate_supers_type() waits while a file system is being unmounted, forever if its
 * disk does not answer.  Meanwhile the work item holds the module: so the kernel
 * refuses to unload it (-EWOULDBLOCK), and fs_table_stop() does not wait.
 */
static void fs_table_refresh(struct work_struct *work)
{
	struct fs_table *table;
	char *lines;

	if (!try_module_get(THIS_MODULE))
		return;
	table = kvzalloc(sizeof(*table), GFP_KERNEL);
	lines = kvmalloc(LINES_SIZE + 1, GFP_KERNEL);
	if (table && lines) {
		fs_table_read_mounts(table, lines);
		fs_table_find_supers(table);
		table = rcu_replace_pointer(fs_table, table, true);
		synchronize_rcu();
	}
	kvfree(lines);
	kvfree(table);
	complete_all(&refreshed);
	module_put(THIS_MODULE);
}

/* ------------------------------------------------------------- changes */

static int fs_table_mounts_changed(wait_queue_entry_t *entry, unsigned int mode, int flags,
				   void *key)
{
	schedule_delayed_work(&refresh_work, msecs_to_jiffies(SETTLE_MS));
	return 0;
}

static wait_queue_entry_t waiter = { .func = fs_table_mounts_changed };

static void fs_table_add_waiter(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	mounts_changed = head;
	add_wait_queue(head, &waiter);
}

/* -------------------------------------------------------- start, stop */

static struct file *fs_table_open_mountinfo(void)
{
	struct path root = { .mnt = proc_mnt, .dentry = proc_mnt->mnt_root };

#ifdef VSP_HAVE_FILE_OPEN_ROOT_PATH
	return file_open_root(&root, "1/mountinfo", O_RDONLY, 0);
#else
	return file_open_root(root.dentry, root.mnt, "1/mountinfo", O_RDONLY, 0);
#endif
}

int fs_table_start(void)
{
	struct file_system_type *type = get_fs_type("proc");
	poll_table table;

	if (!type)
		return -ENODEV;
	proc_mnt = kern_mount(type);
	module_put(type->owner);
	if (IS_ERR(proc_mnt))
		return PTR_ERR(proc_mnt);
	mountinfo = fs_table_open_mountinfo();
	if (IS_ERR(mountinfo)) {
		kern_unmount(proc_mnt);
		return PTR_ERR(mountinfo);
	}
	init_poll_funcptr(&table, fs_table_add_waiter);
	vfs_poll(mountinfo, &table);
	schedule_delayed_work(&refresh_work, 0);
	wait_for_completion_timeout(&refreshed, msecs_to_jiffies(START_MS));
	return 0;
}

void fs_table_stop(void)
{
	if (mounts_changed)
		remove_wait_queue(mounts_changed, &waiter);
	cancel_delayed_work_sync(&refresh_work);
	filp_close(mountinfo, NULL);
	kern_unmount(proc_mnt);
	kvfree(rcu_dereference_protected(fs_table, true));
}
