# SPDX-License-Identifier: GPL-2.0-or-later
"""The KVM lab: namespace nodes as in the cluster lab, with libvirt and real guests.

>>> from lab.kvm import KvmLab
>>> with KvmLab() as lab:                  # two hosts, a ready cluster
...     lab.a.run_command("virsh create /etc/lab/vm1.xml")
...     print(lab.guest_through().run_command("uname -r").output)

The guests are QEMU machines: with KVM where it works, emulated elsewhere.
"""

from __future__ import annotations

from lab.host import ChannelError, CommandFailedError, LabError, Result
from lab.kvm.host import KvmHost
from lab.kvm.lab import KvmLab

__all__ = ["ChannelError", "CommandFailedError", "KvmHost", "KvmLab", "LabError", "Result"]
