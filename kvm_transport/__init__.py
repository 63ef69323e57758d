# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's communication layer on KVM/QEMU, the host's end.

- :mod:`kvm_transport.holder`: the process that hands each QEMU its shared
  memory and keeps the descriptors (``vesper-ivshmem``),
- :mod:`kvm_transport.holder_client`: how others talk to it,
- :mod:`kvm_transport.link`: one activated guest: memory, notifications.

The guest's end is ``kvm_transport/guest/vesper_ivshmem.c``.
"""
