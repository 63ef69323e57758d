# SPDX-License-Identifier: GPL-2.0-or-later
"""The Xen lab for tests: resumed from its saved state, with the present tree in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.evaluation import cluster
from lab.xen import XenHost, XenLab, project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/xen" in item.path.as_posix():
            item.add_marker(pytest.mark.xen)


@pytest.fixture(scope="session")
def lab() -> Iterator[XenLab]:
    """Two hosts, a ready cluster without resources, vesperd on both."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with XenLab.resume() as lab:
        yield lab


@pytest.fixture
def clean(lab: XenLab) -> Iterator[XenLab]:
    """The lab, with no resource and no guest before and after the test."""
    _clean(lab)
    yield lab
    _clean(lab)


def _clean(lab: XenLab) -> None:
    for host in lab.hosts:
        host.run("xl destroy vm1", timeout=60)
    if "vm1" in lab.a.run("crm_resource --list", timeout=60).output:
        # cleanup: a resource that has failed to stop would not be stopped
        lab.a.run("crm_resource --cleanup --resource vm1", timeout=60)
        lab.a.run("crm -F --wait resource stop vm1", timeout=240)
        lab.a.run("crm -F configure delete vm1", timeout=60, check=True)
    for host in lab.hosts:
        if host.run("test -S /run/vesper/vesperd.sock && pgrep vesperd").rc != 0:
            host.stop_vesperd()
            host.start_vesperd()
        host.put("/etc/xen/vm1.cfg", project.guest_config().encode())


@pytest.fixture
def vm1(clean: XenLab) -> XenLab:
    """The lab, with vm1 as a resource that VESPER watches."""
    cluster.configure(clean, "vesper", print)
    return clean


@pytest.fixture
def guest_on_a(clean: XenLab) -> XenHost:
    """host-a, with vm1 running on it without Pacemaker."""
    host = clean.a
    host.run("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    clean.guest(through=host).wait_ready(60)
    return host
