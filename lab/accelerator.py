# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM where it works, emulation (TCG) elsewhere.

``VESPER_LAB_ACCEL`` is ``kvm``, ``tcg``, or ``auto`` (the default).  In some nested
set-ups /dev/kvm exists but cannot run the lab's machines.  So ``auto`` boots one of them
with KVM once, and keeps the outcome with the images.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

from lab.images import store
from lab.progress import note_progress

__all__ = ["kvm_works"]


def kvm_works(what: object, boots: Callable[[], None]) -> bool:
    """Return whether to run something with KVM.

    :param what: names it; part of the key under which the outcome is kept.
    :param boots: boots it with KVM, and raises if that does not work.
    """
    wish = os.environ.get("VESPER_LAB_ACCEL", "auto")
    if wish == "tcg" or (wish == "auto" and not os.access("/dev/kvm", os.R_OK | os.W_OK)):
        return False
    if wish == "kvm":
        return True
    # The answer holds for this processor and this kernel.
    key = store.hash_inputs("1", what, platform.release(), _processor_name())

    def try_kvm(directory: Path) -> None:
        try:
            boots()
        except Exception as error:
            note_progress(
                f"/dev/kvm is there but {what} does not boot with it: {_first_line_of_error(error)}"
            )
            (directory / "verdict").write_text("tcg")
        else:
            (directory / "verdict").write_text("kvm")

    verdict = store.build_image("accelerator", key, try_kvm, what="trying KVM") / "verdict"
    return verdict.read_text() == "kvm"


def _processor_name() -> str:
    with open("/proc/cpuinfo") as info:
        return next((line for line in info if line.startswith("model name")), "")


def _first_line_of_error(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
