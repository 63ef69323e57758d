/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside vesper.ko.
 *
 *	main.c		module init and exit
 *	transport.c	the link to the host comes and goes
 *	region.c	pieces of memory shared with the host
 *	cchan.c		C-chan: requests of the host and their dispatch
 *	image.c		the memory a probe's image arrives in
 *	loader.c	loads and unloads modules without user space
 *	helper.S	the program that makes the loader's system call
 *	klog.c		the kernel's own line about a module
 *	export.c	relay export: channel table, index, CPU hotplug
 *	record.c	the probes' hot path
 *	probe.c		what all probes do alike
 *	last_words.c	what the kernel says on an oops or a panic
 *	life.c		signs of life
 */
#ifndef VESPER_CORE_H
#define VESPER_CORE_H

#include <linux/compiler.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/types.h>

#include "vesper.h"
#include "vesper_transport.h"

/*
 * Protects the transport, all regions, the channel table and the exports.
 * Held for short times only: never while a module is loaded or unloaded.
 */
extern struct mutex vsp_lock;

/* ------------------------------------------------------- transport.c */

extern struct vsp_transport __rcu *vsp_transport;

/* The registered transport or NULL.  Under vsp_lock. */
struct vsp_transport *vsp_transport_locked(void);

/* Tell the host to look, if there is one.  In any context. */
void vsp_notify(void);

/* ---------------------------------------------------------- region.c */

/**
 * struct vsp_shared - pages, and the region that they are to the host
 * @region: as the host is told; handle 0 while not shared
 */
struct vsp_shared {
	struct page **pages;
	unsigned int nr_pages;
	bool writable;
	struct vsp_region region;
};

/* Hold the pages and, with a transport, share them.  Under vsp_lock. */
int vsp_shared_init(struct vsp_shared *shared, struct page *const *pages,
		    unsigned int nr_pages);
int vsp_shared_init_vmalloc(struct vsp_shared *shared, void *addr,
			    unsigned int nr_pages, bool writable);
/* The opposite of both; nothing happens if neither was done. */
void vsp_shared_release(struct vsp_shared *shared);
/* A transport has come, is about to go. */
int vsp_shared_connect(struct vsp_shared *shared);
void vsp_shared_disconnect(struct vsp_shared *shared);

/* ----------------------------------------------------------- cchan.c */

int vsp_cchan_init(void);
void vsp_cchan_exit(void);
/* A new C-chan page: counters from 0.  Under vsp_lock. */
void vsp_cchan_reset(struct vsp_cchan *cchan);

/* ----------------------------------------------------------- image.c */

/**
 * struct vsp_image - a probe's image, private memory of the guest
 * @data: of @len bytes
 * @params: module parameters
 */
struct vsp_image {
	void *data;
	size_t len;
	char *params;
};

int vsp_image_alloc(u32 pages, struct vsp_region *region);
int vsp_image_free(u64 handle);
/* Under vsp_lock. */
void vsp_image_drop(void);
/* End the sharing, copy, check.  The memory is gone whatever the outcome. */
int vsp_image_take(const struct vsp_msg_load *load, struct vsp_image *image);
void vsp_image_put(struct vsp_image *image);

/* ---------------------------------------------------------- loader.c */

extern const char vsp_helper[], vsp_helper_end[];	/* helper.S */

int vsp_loader_init(void);
void vsp_loader_exit(void);
int vsp_loader_load(const struct vsp_image *image);
int vsp_loader_unload(const char *name);

/* ------------------------------------------------------------ klog.c */

u64 vsp_klog_mark(void);
void vsp_klog_find(u64 mark, const char *name, bool any, char *text, size_t size);
/* The end of the log.  For kmsg dumpers: in any context.  Returns its length. */
size_t vsp_klog_end(char *text, size_t size);

/* ------------------------------------------------------ last_words.c */

int vsp_words_init(void);
void vsp_words_exit(void);
/* Under vsp_lock. */
void vsp_words_connect(void);
void vsp_words_disconnect(void);
struct vsp_region vsp_words_region(void);

/* ------------------------------------------------------------ life.c */

int vsp_life_init(void);
void vsp_life_exit(void);
/* Under vsp_lock. */
void vsp_life_connect(void);
void vsp_life_disconnect(void);
struct vsp_region vsp_life_region(void);

/* ---------------------------------------------------------- export.c */

struct vsp_export_cpu {
	struct vsp_shared buffer;
	u64 seq;	/* of the next record; by that CPU only */
};

struct vsp_export {
	struct rchan *rchan;
	unsigned int slot;	/* in the channel table */
	u32 generation;
	u32 subbuf_size;
	u32 n_subbufs;
	char modname[VSP_NAME_LEN];
	struct vsp_index *index;	/* [nr_cpu_ids], shared */
	struct vsp_shared index_shared;
	struct vsp_export_cpu cpu[];	/* [nr_cpu_ids] */
};

extern struct vsp_export __rcu *vsp_exports[VSP_MAX_CHANNELS];

int vsp_export_init(void);
void vsp_export_exit(void);
/* Under vsp_lock. */
int vsp_export_connect(void);
void vsp_export_disconnect(void);
struct vsp_region vsp_export_table(void);

#endif /* VESPER_CORE_H */
