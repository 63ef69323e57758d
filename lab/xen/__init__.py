# SPDX-License-Identifier: GPL-2.0-or-later
"""The Xen lab: emulated hosts that run real Xen, Corosync and Pacemaker.

>>> from lab.xen import XenLab
>>> with XenLab.resume_lab() as lab:        # two hosts, a ready cluster, ~5 s
...     print(lab.a.run_command("crm_mon -1").output)
...     lab.a.run_command("xl create /etc/xen/vm1.cfg")
...     print(lab.guest_through().run_command("uname -r").output)
"""

from __future__ import annotations

from lab.host import ChannelError, CommandFailedError, LabError, Result
from lab.xen.host import XenHost
from lab.xen.lab import XenLab

__all__ = ["ChannelError", "CommandFailedError", "LabError", "Result", "XenHost", "XenLab"]
