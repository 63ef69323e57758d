# SPDX-License-Identifier: GPL-2.0-or-later
"""One cluster of two nodes for all tests; a fresh resource for each."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from lab.cluster import ClusterLab
from tests.cluster.life import Life
from tests.cluster.vm import VirtualMachine

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
        vm.remove()


@pytest.fixture
def life(vm: VirtualMachine) -> Life:
    """A VM that is watched."""
    return Life(vm, vm.configure())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the nodes' logs to the report of a test that has failed."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, ClusterLab):
        for node in lab.nodes:
            for path in (node.pacemaker_log, node.vesperd_log):
                lines = path.read_text(errors="replace").splitlines() if path.exists() else []
                told = [line for line in lines if "\tinfo: " not in line]
                title = f"{node.name}: {path.name}"
                report.sections.append((title, "\n".join(told[-LINES:])))
    return report
