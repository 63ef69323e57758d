/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A table of the mounted file systems.
 *
 * A handler cannot ask where a file system is mounted, and after an error nobody can
 * for certain.  So a work item reads mountinfo whenever it changes, and handlers look
 * into the table that it has made.
 */
#ifndef VESPER_FS_ERROR_FS_TABLE_H
#define VESPER_FS_ERROR_FS_TABLE_H

#include <linux/types.h>

#include "vesper_abi.h"

/**
 * struct fs_table_entry - one mounted file system
 * @info: s_fs_info of its super block; NULL if unknown
 * @dev: s_dev of its super block
 * @type: name of its type; "" if process 1 sees no mount of it
 * @disk: s_id of its super block; if that is unknown, the name of its source
 * @mount: where process 1 sees it mounted first; "" if nowhere.  Of a long path only
 *	   the end is kept, which does not begin with "/".
 */
struct fs_table_entry {
	const void *info;
	dev_t dev;
	char type[VSP_FSTYPE_LEN];
	char disk[VSP_DISK_LEN];
	char mount[VSP_MOUNT_LEN];
};

/**
 * fs_table_start - create the table, and keep it up to date from now on
 *
 * May sleep.  It waits for the first table, but not long if a file system blocks.
 *
 * Return: 0 or -errno.
 */
int fs_table_start(void);

/* Free the table.  No lookup may run any more. */
void fs_table_stop(void);

/**
 * fs_table_find_dev - find the file system of a device
 * @dev: s_dev of its super block
 *
 * In any context, within rcu_read_lock().
 *
 * Return: the file system, or NULL if it is not in the table.
 */
const struct fs_table_entry *fs_table_find_dev(dev_t dev);

/**
 * fs_table_find_info - find the file system of an s_fs_info
 * @type: name of its type
 * @info: s_fs_info of its super block
 *
 * In any context, within rcu_read_lock().  If no file system with @info is known, but
 * exactly one of that type whose s_fs_info is unknown, it returns that one.
 *
 * Return: the file system, or NULL if it is not in the table.
 */
const struct fs_table_entry *fs_table_find_info(const char *type, const void *info);

#endif /* VESPER_FS_ERROR_FS_TABLE_H */
