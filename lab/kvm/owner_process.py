# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that owns a KVM lab: ``python3 -m lab.kvm.owner_process HOSTS``."""

from __future__ import annotations

import sys

from lab.cluster.owner_process import LabOwner
from lab.kvm.lab import KvmLab

__all__: list[str] = []

if __name__ == "__main__":
    LabOwner("kvm").own_lab_until_sigterm(KvmLab, int(sys.argv[1]))
