# SPDX-License-Identifier: GPL-2.0-or-later
"""The Xen lab for tests: resumed from its saved state, with the present tree in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.evaluation import cluster
from lab.xen import XenHost, XenLab
from tests.support.failures import shows_logs
from tests.support.vm1 import host_logs
from tests.xen.support.vm1 import clean, create_guest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/xen" in item.path.as_posix():
            item.add_marker(pytest.mark.xen)


@pytest.fixture(scope="session")
def lab() -> Iterator[XenLab]:
    """Yield two hosts with vesperd, and a ready cluster without resources."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with XenLab.resume_lab() as lab:
        yield lab


@pytest.fixture
def cleaned(lab: XenLab) -> Iterator[XenLab]:
    """Yield the lab without a resource and a guest, and remove what the test leaves."""
    clean(lab)
    yield lab
    clean(lab)


@pytest.fixture(scope="module")
def resource(lab: XenLab) -> Iterator[XenLab]:
    """Yield the lab with vm1 as a resource that VESPER watches; once for a file."""
    clean(lab)
    cluster.configure_resource(lab, "vesper", print)
    yield lab
    clean(lab)


@pytest.fixture
def vm1(resource: XenLab) -> XenLab:
    """Yield the lab of ``watched`` without a failure that the cluster knows."""
    cluster.settle_after_failover(resource, "vesper", print)
    return resource


@pytest.fixture
def guest_on_a(cleaned: XenLab) -> XenHost:
    """Yield host-a, where vm1 runs without Pacemaker."""
    create_guest(cleaned)
    return cleaned.a


#: Command that prints, on a host, the logs that explain why a test failed.
LOGS = (
    "date +%T; xl list; vesper status; crm_mon -1r 2>&1; tail -n 60 /var/log/vesperd.log; "
    "grep -E ' (notice|warning|error|crit): ' /var/log/pacemaker/pacemaker.log | tail -n 60; "
    "tail -n 40 /var/log/xen/console/guest-vm1.log; tail -n 30 /var/log/xen/xl-vm1.log"
)

pytest_runtest_makereport = shows_logs(XenLab, lambda lab: host_logs(lab, LOGS))
