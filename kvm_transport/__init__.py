# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's communication layer on KVM/QEMU, the host's end.

- :mod:`kvm_transport.transport`: libvirt's domains, activation; the entry point,
- :mod:`kvm_transport.qemu_process_watch`: one QEMU process, until its end,
- :mod:`kvm_transport.libvirt_states`: libvirt's states and events, as reports and notices,
- :mod:`kvm_transport.libvirt_connection`, :mod:`kvm_transport.status_files`:
  libvirtd; libvirt's files and QEMU's threads,
- :mod:`kvm_transport.link`: one activated guest: memory, notifications,
- :mod:`kvm_transport.ivshmem_client`: the client of the ivshmem server,
- :mod:`kvm_transport.ivshmem_server`: the process that gives each QEMU its shared
  memory and keeps the descriptors (``vesper-ivshmem``).

The guest's end is ``kvm_transport/guest/vesper_ivshmem.c``.

The ivshmem server imports parts of this and must stay small: this file imports nothing.
"""
