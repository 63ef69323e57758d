# SPDX-License-Identifier: GPL-2.0-or-later
"""The accelerator of the emulated hosts."""

from __future__ import annotations

from collections.abc import Callable

from lab.accelerator import kvm_works

__all__ = ["Accelerator", "choose_accelerator"]

#: XSAVE off: with it the user space of an emulated dom0 is silently corrupted
#: under load (QEMU 7.2, Xen 4.17). RDTSCP off: emulating it costs. Nested
#: paging on, for PVH guests. tb-size (MiB): with 256 the translated code of a
#: host does not fit, and is thrown away twice a minute.
_TCG = ("tcg,thread=multi,tb-size=1024", "Opteron_G3,-rdtscp,+npt")
_KVM = ("kvm", "host")

#: QEMU's -accel and -cpu.
Accelerator = tuple[str, str]


def choose_accelerator(boots: Callable[[Accelerator], None]) -> Accelerator:
    """Return the accelerator for the hosts.

    :param boots: boots a host with it, and raises if that does not work.
    """
    return _KVM if kvm_works(_KVM, lambda: boots(_KVM)) else _TCG
