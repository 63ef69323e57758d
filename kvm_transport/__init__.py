# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's communication layer on KVM/QEMU, the host's end.

- :mod:`kvm_transport.transport`: libvirt's domains, activation; the entry point,
- :mod:`kvm_transport.qemu_process_watch`: one life of a domain,
- :mod:`kvm_transport.libvirt_states`: what libvirt says, understood,
- :mod:`kvm_transport.libvirt_connection`, :mod:`kvm_transport.status_files`:
  libvirtd; QEMU's processes,
- :mod:`kvm_transport.link`: one activated guest: memory, notifications,
- :mod:`kvm_transport.ivshmem_client`: how others talk to the holder,
- :mod:`kvm_transport.ivshmem_server`: the process that hands each QEMU its shared
  memory and keeps the descriptors (``vesper-ivshmem``).

The guest's end is ``kvm_transport/guest/vesper_ivshmem.c``.

The agent uses parts of this and must start fast: nothing is imported here.
"""
