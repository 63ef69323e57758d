# SPDX-License-Identifier: GPL-2.0-or-later
"""Options common to all tests, and what runs side by side.

``make test`` has two processes for the tests (pytest-xdist): much of their
time they wait for a cluster or an emulated host.  Tests that share a lab, or
a file, stay together.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

#: Folders whose tests share one lab; the longest first, that it ends in time.
TOGETHER = ("xen", "kvm", "cluster")

HERE = Path(__file__).parent


# How long one example takes says nothing, on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test fails the run: 'make test' must run all of them",
    )


def _group(item: pytest.Item) -> str:
    place = item.path.relative_to(HERE)
    return place.parts[0] if place.parts[0] in TOGETHER else place.as_posix()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.has_plugin("xdist") or not config.getoption("numprocesses"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    order = {name: number for number, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: order.get(_group(item), len(TOGETHER)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--no-skips") or reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
