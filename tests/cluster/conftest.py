# SPDX-License-Identifier: GPL-2.0-or-later
"""One cluster of two nodes for all tests; a fresh resource for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.cluster import ClusterLab
from tests.cluster.life import Life
from tests.cluster.vm import VirtualMachine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cluster" in str(item.path):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def lab() -> Iterator[ClusterLab]:
    with ClusterLab(2, vesperd_config="activate_timeout = 3.0\n") as lab:
        yield lab


@pytest.fixture
def vm(lab: ClusterLab) -> Iterator[VirtualMachine]:
    vm = VirtualMachine(lab)
    try:
        yield vm
    finally:
        vm.remove()


@pytest.fixture
def life(vm: VirtualMachine) -> Life:
    """A VM that is watched."""
    return Life(vm, vm.configure())
