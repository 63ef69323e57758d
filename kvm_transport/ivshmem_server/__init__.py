# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper-ivshmem``: the ivshmem server of every QEMU of this host.

QEMU connects once, when its device is made, and never again: whoever serves it
must outlive each restart of the daemon.  So this process does nothing but
answer handshakes and hold descriptors.  Its own restart is bridged by
systemd's descriptor store.

- :mod:`kvm_transport.ivshmem_server.vm`: what one QEMU has: memory, eventfds, handshake,
- :mod:`kvm_transport.ivshmem_server.control`: the requests of ``vesperd`` and others,
- :mod:`kvm_transport.ivshmem_server.server`: the loop over both sockets,
- :mod:`kvm_transport.ivshmem_server.fdstore`: systemd's descriptor store,
- :mod:`kvm_transport.ivshmem_server.main`: the command line.
"""
