# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM where it works, emulation (TCG) elsewhere.

``VESPER_LAB_ACCEL`` is ``kvm``, ``tcg``, or ``auto`` (the default): /dev/kvm
may be there and still not run Xen (some nested set-ups), so a host is booted
with it once, and the outcome is kept with the images.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

from lab.images import store
from lab.progress import note

__all__ = ["Accelerator", "choose"]

#: XSAVE off: with it the user space of an emulated dom0 is silently corrupted
#: under load (QEMU 7.2, Xen 4.17). RDTSCP off: emulating it costs. Nested
#: paging on, for PVH guests. tb-size (MiB): with 256 the translated code of a
#: host does not fit, and is thrown away twice a minute.
_TCG = ("tcg,thread=multi,tb-size=1024", "Opteron_G3,-rdtscp,+npt")
_KVM = ("kvm", "host")

#: QEMU's -accel and -cpu.
Accelerator = tuple[str, str]


def choose(boots: Callable[[Accelerator], None]) -> Accelerator:
    """What to run the hosts with.

    :param boots: boots a host with it, and raises if that does not work.
    """
    wish = os.environ.get("VESPER_LAB_ACCEL", "auto")
    if wish == "tcg" or (wish == "auto" and not os.access("/dev/kvm", os.R_OK | os.W_OK)):
        return _TCG
    if wish == "kvm":
        return _KVM
    # The answer holds for this processor and this kernel.
    key = store.digest("1", _KVM, platform.release(), _processor())

    def make(directory: Path) -> None:
        try:
            boots(_KVM)
        except Exception as error:
            note(f"/dev/kvm is there but a host does not boot with it: {_first_line(error)}")
            (directory / "verdict").write_text("tcg")
        else:
            (directory / "verdict").write_text("kvm")

    verdict = store.build("accelerator", key, make, what="trying KVM") / "verdict"
    return _KVM if verdict.read_text() == "kvm" else _TCG


def _processor() -> str:
    with open("/proc/cpuinfo") as info:
        return next((line for line in info if line.startswith("model name")), "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
