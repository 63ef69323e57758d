# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.kvm``: how fast the link to a guest on QEMU is.

- :mod:`bench.kvm.round_trip`: guest store → decoded event in a session, against
  the bare round trip over the same kind of device, side by side in one run,
- :mod:`bench.kvm.throughput`: records per second, of stand-in writers into real
  shared memory (bench/kvm/writer.c).
"""
