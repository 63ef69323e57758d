# SPDX-License-Identifier: GPL-2.0-or-later
"""Every probe in kernels that Debian does not build: "make test-kernel-variants"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import images
from lab.images.kernel_variants import KCFI, UNIPROCESSOR, Variant, variant_kernel
from lab.images.probes import FRONTENDS
from tests.kernel.support.ivshmem import PROBES
from tests.kernel.support.kernel_trial import try_kernel
from tests.support.notices import NOTICE
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition

#: Of each variant: its guest's CPUs, and the frontends that it can have.
VARIANTS = {UNIPROCESSOR: (1, {"vesper_ivshmem"}), KCFI: (2, set(FRONTENDS))}

#: Its function has the type of no tracepoint's callback: a kernel with kCFI would panic.
TRACEPOINT = parse_definition("t:switches sched_switch prev=$arg2:u64")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_probes_see_real_faults(
    variant: Variant, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    cpus, frontends = VARIANTS[variant]
    kernel = variant_kernel(variant)
    modules = images.build_modules(kernel)
    assert set(modules.frontends) == frontends
    assert {path.stem for path in modules.probes} >= set(PROBES)
    refused = [TRACEPOINT] if variant is KCFI else []
    trouble = try_kernel(kernel, modules, cpus, tmp_path / variant.name, refused)
    assert not trouble, trouble
    record_property(NOTICE, f"booted: {kernel.release}, {variant.what}")
