# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper-ivshmem``: the ivshmem server of every QEMU of this host.

QEMU connects to its server once, when it creates the device, and never again.  The
server must therefore outlive each restart of vesperd.  So this process only answers
handshakes and keeps descriptors.  systemd's descriptor store keeps them while the
server itself restarts.

- :mod:`kvm_transport.ivshmem_server.vm`: one device: memory, eventfds, handshake,
- :mod:`kvm_transport.ivshmem_server.control`: the requests of ``vesperd`` and others,
- :mod:`kvm_transport.ivshmem_server.server`: the loop over both sockets,
- :mod:`kvm_transport.ivshmem_server.fdstore`: systemd's descriptor store,
- :mod:`kvm_transport.ivshmem_server.main`: the command line.
"""
