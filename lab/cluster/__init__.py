# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster lab: nodes as sets of namespaces, each with real Corosync and Pacemaker.

>>> from lab.cluster import ClusterLab
>>> with ClusterLab() as lab:              # two nodes with a DC, about 5 s
...     print(lab.nodes[0].run("crm_mon", "-1").stdout)

Each node has the hosts' Debian tree as its root (an overlay, nothing is
installed on this machine), the project as ``make install`` puts it there, and
vesperd.  Guests are stand-ins (:mod:`lab.standin`), which is what sets this
lab apart from the Xen lab: it is for what happens between vesperd, the agent
and Pacemaker.
"""

from __future__ import annotations

from lab.cluster.lab import ClusterLab
from lab.cluster.node import ClusterError, Node

__all__ = ["ClusterError", "ClusterLab", "Node"]
