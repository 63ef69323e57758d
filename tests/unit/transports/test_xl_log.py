# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a domain has ended, as xl's log has it (xl 4.17)."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from vesper_monitor.hypervisor.transport import Cause, Domain, DomainReport, DomainState
from xen_transport import toolstack, transport, xl_log

LOG = """\
Waiting for domain vm1 (domid 2) to die [pid 1041]
Domain 2 has shut down, reason code 1 0x1
Action for shutdown reason code 1 is restart
Domain 2 needs to be cleaned up: destroying the domain
Done. Rebooting now
Waiting for domain vm1 (domid 3) to die [pid 1041]
Domain 3 has shut down, reason code 0 0x0
Action for shutdown reason code 0 is destroy
Domain 3 needs to be cleaned up: destroying the domain
Done. Exiting now
Waiting for domain vm1 (domid 5) to die [pid 1200]
Domain 5 has been destroyed.
Waiting for domain vm1 (domid 6) to die [pid 1300]
Waiting for domain vm1 (domid 7) to die [pid 1400]
Domain 7 has shut down, reason code 2 0x2
Domain has suspended.
Done. Exiting now
"""


@pytest.mark.parametrize(
    ("domid", "cause"),
    [(2, Cause.REBOOT), (3, Cause.ASKED), (5, Cause.FAILURE), (6, None), (7, Cause.UNKNOWN),
     (4, None), (1, None)],
)
def test_an_ending_is_read_from_xls_log(domid: int, cause: Cause | None) -> None:
    found = xl_log.parse_ending(LOG, domid)
    assert (found[0] if found else None) is cause


def test_the_last_ending_of_a_reused_domain_number_counts() -> None:
    again = LOG.replace("reason code 0 0x0", "reason code 3 0x3").replace("5", "3")
    assert xl_log.parse_ending(LOG + again, 3) == (Cause.FAILURE, "it has crashed")


def test_who_is_followed() -> None:
    assert xl_log.is_followed_by_xl(LOG, 6)
    assert not xl_log.is_followed_by_xl(LOG, 8)


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "xl-vm1.log").write_text("x" * 100_000 + LOG)
    assert xl_log.read_log_tail("vm1", tmp_path).endswith(LOG)
    assert xl_log.read_log_tail("vm2", tmp_path) == ""
    assert xl_log.read_log_tail("../vm1", tmp_path) == ""


def test_a_domain_that_was_migrated_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """xl migrate's source: xl has noted nothing of its end, but it was seen suspended."""
    vm1 = Domain("vm1", 10, "uuid")
    listed: dict[int, DomainReport] = {}

    async def reports(_self: toolstack.DomainList) -> dict[int, DomainReport]:
        return dict(listed)

    monkeypatch.setattr(toolstack.DomainList, "list_reports", reports)
    monkeypatch.setattr(xl_log, "read_log_tail", lambda *_: "")
    xen = transport.XenTransport()

    def ended(before: DomainReport) -> DomainReport:
        listed[10] = before
        assert asyncio.run(xen.report_domain(vm1)) == before
        del listed[10]
        return asyncio.run(xen.report_domain(vm1))

    suspended = DomainReport(DomainState.PAUSED, Cause.ASKED, "it is being saved or migrated")
    said = "it had suspended itself, to be saved or migrated"
    assert ended(suspended) == DomainReport(DomainState.GONE, Cause.UNKNOWN, said)
    assert ended(DomainReport(DomainState.RUNNING)) == DomainReport(DomainState.GONE)


def test_a_log_on_a_disk_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """vesperd's loop goes on, and takes it that nothing is noted."""
    release = threading.Event()

    def hang(*_: object) -> str:
        release.wait(30)
        return "late"

    async def ask() -> str:
        return await xl_log.read_log_tail_in_time("vm1")

    monkeypatch.setattr(xl_log, "read_log_tail", hang)
    monkeypatch.setattr(xl_log, "READ_LIMIT_S", 0.05)
    try:
        assert asyncio.run(ask()) == ""
    finally:
        release.set()
    monkeypatch.setattr(xl_log, "read_log_tail", lambda *_: "text")
    monkeypatch.setattr(xl_log, "READ_LIMIT_S", 30.0)
    assert asyncio.run(ask()) == "text"
