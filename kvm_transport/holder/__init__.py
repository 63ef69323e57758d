# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper-ivshmem``: the ivshmem server of every QEMU of this host.

QEMU connects once, when its device is made, and never again: whoever serves it
must outlive each restart of the daemon.  So this process does nothing but
answer handshakes and hold descriptors.  Its own restart is bridged by
systemd's descriptor store.

- :mod:`kvm_transport.holder.vm`: what one QEMU has: memory, eventfds, handshake,
- :mod:`kvm_transport.holder.control`: the requests of ``vesperd`` and others,
- :mod:`kvm_transport.holder.server`: the loop over both sockets,
- :mod:`kvm_transport.holder.fdstore`: systemd's descriptor store,
- :mod:`kvm_transport.holder.main`: the command line.
"""
