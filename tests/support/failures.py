# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs in the report of a test that has failed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import pytest

__all__ = ["shows_logs"]

_L = TypeVar("_L")


def shows_logs(
    kind: type[_L], logs: Callable[[_L], Iterable[tuple[str, str]]]
) -> Callable[..., Generator[None, pytest.TestReport, pytest.TestReport]]:
    """A conftest's ``pytest_runtest_makereport``.

    :param kind: of the fixture ``lab``.
    :param logs: titles and texts of what tells why a test has failed.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        lab = getattr(item, "funcargs", {}).get("lab")
        if report.failed and isinstance(lab, kind):
            report.sections.extend(logs(lab))
        return report

    return pytest_runtest_makereport
