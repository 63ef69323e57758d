// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe net_link: a network device of the guest has lost its link, was taken down,
 * was removed, or has lost its last IPv4 address; and when it has recovered.
 *
 * It uses the notifier chains netdev_chain (net/core/dev.c) and inetaddr_chain
 * (net/ipv4/devinet.c) of Linux 5.10 to 7.3, which are called with the RTNL held.
 * Only devices with a parent device (virtio, Xen, PCI) are watched: no bridges, no
 * tunnels, no veth pairs of containers.
 */

#include <linux/inetdevice.h>
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/rtnetlink.h>
#include <net/net_namespace.h>

#include "vesper.h"

#define MAX_DEVICES	32

static struct vsp_probe probe;

/* Under the RTNL. */
static struct {
	int ifindex;	/* 0: free */
	bool carrier;
} links[MAX_DEVICES];

/* Registering calls the notifier for each device there is: these are no changes. */
static bool is_replay;

static bool net_link_is_watched(const struct net_device *dev)
{
	return dev->dev.parent && net_eq(dev_net(dev), &init_net);
}

static void net_link_record(const struct net_device *dev, enum vsp_net_change change,
			    __be32 address)
{
	struct vsp_net_link rec = {
		.rec = { .len = sizeof(rec), .event = VSP_EVENT_NET_LINK },
		.ifindex = dev->ifindex,
		.change = change,
	};

	if (is_replay)
		return;
	memcpy(rec.address, &address, sizeof(rec.address));
	strscpy(rec.device, dev->name, sizeof(rec.device));
	vsp_record_write(probe.channel, &rec.rec);
}

/*
 * Store whether the device has a carrier, and return whether that has changed since
 * the last call.  If there is no room for the device, return true.
 */
static bool net_link_update_carrier(const struct net_device *dev)
{
	bool carrier = netif_carrier_ok(dev);
	int i, place = -1;

	for (i = 0; i < MAX_DEVICES; i++) {
		if (links[i].ifindex == dev->ifindex) {
			bool changed = links[i].carrier != carrier;

			links[i].carrier = carrier;
			return changed;
		}
		if (!links[i].ifindex && place < 0)
			place = i;
	}
	if (place >= 0) {
		links[place].ifindex = dev->ifindex;
		links[place].carrier = carrier;
	}
	return true;
}

static void net_link_forget_device(const struct net_device *dev)
{
	int i;

	for (i = 0; i < MAX_DEVICES; i++) {
		if (links[i].ifindex == dev->ifindex)
			links[i].ifindex = 0;
	}
}

static int net_link_device_notify(struct notifier_block *nb, unsigned long event, void *info)
{
	const struct net_device *dev = netdev_notifier_info_to_dev(info);

	if (!net_link_is_watched(dev))
		return NOTIFY_DONE;
	switch (event) {
	case NETDEV_UP:
		net_link_update_carrier(dev);
		net_link_record(dev, VSP_NET_UP, 0);
		break;
	case NETDEV_DOWN:
		net_link_record(dev, VSP_NET_DOWN, 0);
		break;
	case NETDEV_CHANGE:
		if (net_link_update_carrier(dev))
			net_link_record(dev, netif_carrier_ok(dev) ? VSP_NET_LINK_BACK :
					VSP_NET_LINK_LOST, 0);
		break;
	case NETDEV_UNREGISTER:
		net_link_forget_device(dev);
		net_link_record(dev, VSP_NET_REMOVED, 0);
		break;
	}
	return NOTIFY_DONE;
}

/* Called after the address was added to the list, or removed from it. */
static int net_link_address_notify(struct notifier_block *nb, unsigned long event, void *ptr)
{
	const struct in_ifaddr *address = ptr;
	const struct in_device *in_dev = address->ifa_dev;
	const struct in_ifaddr *first = rtnl_dereference(in_dev->ifa_list);

	if (!net_link_is_watched(in_dev->dev))
		return NOTIFY_DONE;
	if (event == NETDEV_DOWN && !first)
		net_link_record(in_dev->dev, VSP_NET_ADDRESS_LOST, address->ifa_address);
	else if (event == NETDEV_UP && first == address && !rtnl_dereference(first->ifa_next))
		net_link_record(in_dev->dev, VSP_NET_ADDRESS_BACK, address->ifa_address);
	return NOTIFY_DONE;
}

static struct notifier_block device_nb = { .notifier_call = net_link_device_notify };
static struct notifier_block address_nb = { .notifier_call = net_link_address_notify };

static int net_link_attach(void)
{
	int err;

	is_replay = true;
	err = register_netdevice_notifier(&device_nb);
	is_replay = false;
	if (err)
		return err;
	err = register_inetaddr_notifier(&address_nb);
	if (err)
		unregister_netdevice_notifier(&device_nb);
	return err;
}

static void net_link_detach(void)
{
	unregister_inetaddr_notifier(&address_nb);
	/* Unregistering calls the notifier as if each device went down and was removed. */
	is_replay = true;
	unregister_netdevice_notifier(&device_nb);
}

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.attach = net_link_attach,
	.detach = net_link_detach,
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: links and addresses of network devices");
MODULE_LICENSE("GPL");
