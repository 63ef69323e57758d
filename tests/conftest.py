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
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.notices import Notices

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


def _group(file: str) -> str:
    """:param file: below this folder."""
    folder = file.partition("/")[0]
    return folder if folder in TOGETHER else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(TOGETHER)}

    def place(item: pytest.Item) -> int:
        return order.get(_group(item.path.relative_to(HERE).as_posix()), len(order))

    items.sort(key=place)


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Gives the processes one group after the other, in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0].removeprefix("tests/"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    config.option.loadscopereorder = False
    return Together(config, log)


class ShowsFailuresAtOnce:
    """Names a test as soon as it has failed: the whole run takes long."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"failed: {report.nodeid} ({report.when})")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ShowsFailuresAtOnce(config))
    config.pluginmanager.register(Notices())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--no-skips") or reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
