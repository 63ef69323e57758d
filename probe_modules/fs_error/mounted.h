/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From what a function of a file system's is given to where it is mounted.
 *
 * For handlers, in any context and under any lock: nothing is locked or waited
 * for.  What is read may change meanwhile, or be no such thing; then the answer
 * is none, and no fault comes of it.
 */
#ifndef VESPER_FS_ERROR_MOUNTED_H
#define VESPER_FS_ERROR_MOUNTED_H

#include <linux/fs.h>

/**
 * struct super_finder - finds the super blocks of one type of file system
 * @magic: s_magic of all of them
 * @offset: where their owners point at them, once that is known
 */
struct super_finder {
	unsigned long magic;
	unsigned int offset;
};

/**
 * find_super - the super block of a file system
 * @finder: its type's
 * @owner: its s_fs_info
 *
 * Return: NULL if there is none.  Within rcu_read_lock().
 */
const struct super_block *find_super(struct super_finder *finder, const void *owner);

/**
 * find_mount - where a file system is mounted, for the first time of several
 * @sb: its super block
 * @path: as seen from the root of the mount's name space, or if that does not
 *	  fit its end, which begins with no "/"; "" if it is mounted nowhere
 * @size: of @path, bytes
 *
 * Within rcu_read_lock().
 */
void find_mount(const struct super_block *sb, char *path, size_t size);

#endif /* VESPER_FS_ERROR_MOUNTED_H */
