# SPDX-License-Identifier: GPL-2.0-or-later
"""The KVM lab for tests: one for all of this folder, with the present tree in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.evaluation import cluster
from lab.kvm import KvmLab
from tests.kvm.support.vm1 import clean
from tests.support.failures import shows_logs
from tests.support.vm1 import host_logs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/kvm" in item.path.as_posix():
            item.add_marker(pytest.mark.kvm)


@pytest.fixture(scope="session")
def lab() -> Iterator[KvmLab]:
    """Two hosts, a ready cluster without resources, vesperd on both."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    # A guest without modules is one soon; the others have booted long before.
    with KvmLab(vesperd_config="activate_timeout = 20.0\n") as lab:
        yield lab


@pytest.fixture
def cleaned(lab: KvmLab) -> Iterator[KvmLab]:
    """The lab, with no resource and no guest before and after the test."""
    clean(lab)
    yield lab
    clean(lab)


@pytest.fixture(scope="module")
def resource(lab: KvmLab) -> Iterator[KvmLab]:
    """The lab, with vm1 as a resource that VESPER watches: one for all tests of a file."""
    clean(lab)
    cluster.configure_resource(lab, "vesper", print)
    yield lab
    clean(lab)


@pytest.fixture
def vm1(resource: KvmLab) -> KvmLab:
    """The same, with no failure known to the cluster."""
    cluster.settle_after_failover(resource, "vesper", print)
    return resource


#: What tells why a test of the lab has failed, as seen in a host.
LOGS = (
    "date +%T; timeout 5 virsh list; vesper status; crm_mon -1rf 2>&1; "
    "tail -n 60 /var/log/vesperd.log; tail -n 20 /var/log/vesper-ivshmem.log; "
    "grep -E ' (notice|warning|error|crit): |error output' /var/log/pacemaker/pacemaker.log | "
    "tail -n 60; tail -n 20 /var/log/libvirt/libvirtd.log; tail -n 30 /var/log/guest-vm1.log"
)

pytest_runtest_makereport = shows_logs(KvmLab, lambda lab: host_logs(lab, LOGS))
