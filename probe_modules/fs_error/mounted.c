// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a file system is mounted, found without a lock.
 *
 * Super blocks, mounts, directory entries and their names are freed after an
 * RCU grace period, as in Linux 5.10 to 6.12: the memory stays while a reader
 * looks at it.  Where it leads may be wrong (an element that is taken off its
 * list points at poison), so that each pointer is followed by
 * copy_from_kernel_nofault() only, and the number of steps is bounded.
 */

#include <linux/dcache.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/uaccess.h>

#include "mounted.h"

/* Bytes of an owner in which its super block is looked for. */
#define OWNER_SIZE	8192
/* Bytes of struct mount, likewise its beginning. */
#define MOUNT_SIZE	512
/* Mounts of one file system, and entries on the way to a root. */
#define MAX_MOUNTS	64
#define MAX_STEPS	128

/* How struct mount begins, which is fs/mount.h's own: in Linux 5.10 to 6.12. */
struct mount_head {
	struct hlist_node hash;
	struct mount_head *parent;	/* itself: at the root, or nowhere */
	struct dentry *mountpoint;
	struct vfsmount mnt;
};

static bool get(void *to, const void *from, size_t size)
{
	return !copy_from_kernel_nofault(to, from, size);
}

NOKPROBE_SYMBOL(get);

/* ---------------------------------------------------------- super block */

static const struct super_block *super_at(const struct super_finder *finder, const void *owner,
					  unsigned int offset)
{
	const struct super_block *sb;
	unsigned long magic;
	void *info;

	if (!get(&sb, owner + offset, sizeof(sb)))
		return NULL;
	/* Few words are the address of anything. */
	if ((unsigned long)sb % sizeof(long) || !virt_addr_valid(sb))
		return NULL;
	if (!get(&info, &sb->s_fs_info, sizeof(info)) || info != owner)
		return NULL;
	return get(&magic, &sb->s_magic, sizeof(magic)) && magic == finder->magic ? sb : NULL;
}

NOKPROBE_SYMBOL(super_at);

/*
 * What the owner is, only the file system knows.  But it and its super block
 * point at each other, always at the same place.
 */
const struct super_block *find_super(struct super_finder *finder, const void *owner)
{
	const struct super_block *sb = super_at(finder, owner, READ_ONCE(finder->offset));
	unsigned int offset;

	for (offset = 0; !sb && offset < OWNER_SIZE; offset += sizeof(long)) {
		sb = super_at(finder, owner, offset);
		if (sb)
			WRITE_ONCE(finder->offset, offset);
	}
	return sb;
}

NOKPROBE_SYMBOL(find_super);

/* ---------------------------------------------------------------- mount */

/*
 * The mount whose mnt_instance it is.  What is in between depends on version
 * and configuration; the mount points at the super block.
 */
static const struct mount_head *mount_of(const struct list_head *instance,
					 const struct super_block *sb)
{
	static unsigned int known;
	unsigned int back = READ_ONCE(known);
	const void *at = instance, *found;

	if (back && get(&found, at - back, sizeof(found)) && found == sb)
		goto found;
	for (back = sizeof(long); back < MOUNT_SIZE; back += sizeof(long)) {
		if (get(&found, at - back, sizeof(found)) && found == sb) {
			WRITE_ONCE(known, back);
			goto found;
		}
	}
	return NULL;

found:
	return at - back - offsetof(struct mount_head, mnt.mnt_sb);
}

NOKPROBE_SYMBOL(mount_of);

/* Writes to the end of the buffer. Return: where it begins, or NULL. */
static char *path_of(const struct mount_head *at, char *start, char *end)
{
	struct mount_head mount;
	struct dentry *dentry, *parent;
	size_t len, room;
	struct qstr name;
	unsigned int i;

	if (!get(&mount, at, sizeof(mount)) || mount.parent == at)
		return NULL;
	*--end = '\0';
	dentry = mount.mnt.mnt_root;
	for (i = 0; i < MAX_STEPS; i++) {
		if (dentry == mount.mnt.mnt_root) {
			if (mount.parent == at) {
				if (!*end)
					*--end = '/';
				return end;
			}
			dentry = mount.mountpoint;
			at = mount.parent;
			if (!get(&mount, at, sizeof(mount)))
				return NULL;
			continue;
		}
		if (!get(&parent, &dentry->d_parent, sizeof(parent)) || parent == dentry ||
		    !get(&name, &dentry->d_name, sizeof(name)))
			return NULL;
		room = end - start;
		len = min_t(size_t, name.len, room);
		end -= len;
		if (!get(end, name.name + name.len - len, len))
			return NULL;
		/* One byte is left over: "/" begins only what is complete. */
		if (len + 1 >= room)
			return end;
		*--end = '/';
		dentry = parent;
	}
	return NULL;
}

NOKPROBE_SYMBOL(path_of);

void find_mount(const struct super_block *sb, char *path, size_t size)
{
	const struct list_head *list = &sb->s_mounts;
	const struct mount_head *mount;
	struct list_head *next;
	unsigned int i;
	char *found;

	for (i = 0; i < MAX_MOUNTS; i++) {
		if (!get(&next, &list->next, sizeof(next)) || next == &sb->s_mounts)
			break;
		mount = mount_of(next, sb);
		found = mount ? path_of(mount, path, path + size) : NULL;
		if (found) {
			memmove(path, found, path + size - found);
			memset(path + (path + size - found), 0, found - path);
			return;
		}
		list = next;
	}
	memset(path, 0, size);
}

NOKPROBE_SYMBOL(find_mount);
