# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest kernel with our modules, built once for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import images
from lab.images.kernel_variants import DEBUG, variant_kernel
from tests.kernel.support.build import build
from tests.kernel.support.loopback_guest import Run, TestGuest


@pytest.fixture(scope="session")
def test_guest() -> TestGuest:
    """``VESPER_KERNEL=debug``: with one that looks for its own faults."""
    debug = os.environ.get("VESPER_KERNEL") == "debug"
    kernel = variant_kernel(DEBUG) if debug else images.kernel_of_tree()
    return TestGuest(kernel, build(kernel))


@pytest.fixture
def modules(test_guest: TestGuest) -> dict[str, Path]:
    """The built modules by file name."""
    return {path.name: path for path in test_guest.files}


@pytest.fixture
def run(test_guest: TestGuest, tmp_path: Path) -> Callable[..., Run]:
    """``run(script, setup="", files={}, cpus=2, ..)``: see :meth:`TestGuest.run`."""

    def boot(script: str, **options: object) -> Run:
        return test_guest.run(script, tmp_path, **options)  # type: ignore[arg-type]

    return boot
