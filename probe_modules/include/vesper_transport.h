/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The interface between the core (vesper.ko) and a hypervisor's frontend.
 *
 * The frontend owns the link to the host: the C-chan page, the notifications in both
 * directions, and the way to share pages.  It registers when the host has activated
 * the guest.  It unregisters when the link ends: on deactivation, on resume after
 * save or migration, on removal.  The core keeps the channels of the probes, and
 * shares them again over the next link.
 */
#ifndef VESPER_TRANSPORT_H
#define VESPER_TRANSPORT_H

#include <linux/types.h>

#include "vesper_abi.h"
#include "vesper_features.h"

struct page;
struct vsp_transport;

/**
 * struct vsp_transport_ops - operations of a frontend
 *
 * A frontend has either @share and @unshare, or @alloc and @free.  With the first
 * pair it lets the host map any page of the guest.  With the second pair it has
 * memory that the host sees: the core moves shared content there, and back when the
 * link ends.
 *
 * @share: let the host map @n pages, and set *@handle to what the host needs for it
 *	   (never 0).  It takes references on the pages.  May sleep, but never waits
 *	   for the host.  Returns 0 or -errno.
 * @unshare: end the sharing; drop the references when the host has unmapped the pages
 * @alloc: return @n adjacent pages of zeros and set their *@handle (never 0); NULL
 *	   if there is no room
 * @free: free these pages.  A CPU may still write to them until synchronize_rcu()
 *	  returns.
 * @notify: notify the host.  In any context, under any lock.
 * @kick_done: the work that vsp_cchan_kick() started is done.  @useful: the host had
 *	       sent a request, or read a reply.  Called under a mutex.  Optional.
 */
struct vsp_transport_ops {
	int (*share)(struct vsp_transport *transport, struct page *const *pages,
		     unsigned int n, bool writable, u64 *handle);
	void (*unshare)(struct vsp_transport *transport, u64 handle);
	void *(*alloc)(struct vsp_transport *transport, unsigned int n, u64 *handle);
	void (*free)(struct vsp_transport *transport, u64 handle, unsigned int n);
	void (*notify)(struct vsp_transport *transport);
	void (*kick_done)(struct vsp_transport *transport, bool useful);
};

/**
 * struct vsp_transport - one link to the host
 * @ops: operations of the frontend
 * @cchan: C-chan page, shared by the frontend, writable for the host
 */
struct vsp_transport {
	const struct vsp_transport_ops *ops;
	struct vsp_cchan *cchan;
};

/**
 * vsp_transport_register - connect the core to a host
 * @transport: lives until vsp_transport_unregister() has returned
 *
 * Initialises the C-chan page and shares all regions.
 *
 * Return: 0, -EBUSY if another transport is registered, @share's error, or
 * -ENOSPC if @alloc has no room.
 */
int vsp_transport_register(struct vsp_transport *transport);

/**
 * vsp_transport_unregister - disconnect the core from the host
 * @transport: if it is not registered, nothing happens
 *
 * Ends the sharing of all regions.  When it returns, nobody writes to the transport's
 * memory or calls @notify.  It does not wait for a module that is being loaded.
 */
void vsp_transport_unregister(struct vsp_transport *transport);

/* Read C-chan: the host has notified.  May be called from an interrupt handler. */
void vsp_cchan_kick(void);

#endif /* VESPER_TRANSPORT_H */
