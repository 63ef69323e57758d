# SPDX-License-Identifier: GPL-2.0-or-later
"""One cluster of two nodes for all tests; a fresh resource for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.cluster import ClusterLab
from tests.cluster.support.life import Life
from tests.cluster.support.vm import VirtualMachine
from tests.support.failures import shows_logs

#: Lines of each log that are shown of a test that has failed.
LINES = 150


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
        vm.remove_resource()


@pytest.fixture
def life(vm: VirtualMachine) -> Life:
    """A VM that is watched."""
    return Life(vm, vm.configure_resource())


def node_logs(lab: ClusterLab) -> Iterator[tuple[str, str]]:
    """Titles and texts."""
    for node in lab.nodes:
        for path in (node.pacemaker_log, node.vesperd_log):
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            told = [line for line in lines if "\tinfo: " not in line]
            yield f"{node.name}: {path.name}", "\n".join(told[-LINES:])


pytest_runtest_makereport = shows_logs(ClusterLab, node_logs)
