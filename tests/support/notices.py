# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test has to say beside that it has passed: printed after all else, from any process.

A test calls ``record_property("notice", text)``, or ``"loud warning"`` for what is nobody's fault
yet, but has to be seen.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

__all__ = ["LOUD_WARNING", "NOTICE", "Notices"]

NOTICE = "notice"
LOUD_WARNING = "loud warning"


class Notices:
    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {NOTICE: [], LOUD_WARNING: []}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":  # it has all that was said before
            for name, text in report.user_properties:
                if name in self._said:
                    self._said[name].append(str(text))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, None, None]:
        yield
        for text in self._said[NOTICE]:
            terminalreporter.write_line(text)
        if not self._said[LOUD_WARNING]:
            return
        terminalreporter.write_sep("!", "WARNING", red=True, bold=True)
        for text in self._said[LOUD_WARNING]:
            terminalreporter.write_line(text, red=True, bold=True)
        terminalreporter.write_sep("!", red=True, bold=True)
