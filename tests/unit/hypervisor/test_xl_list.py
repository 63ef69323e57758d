# SPDX-License-Identifier: GPL-2.0-or-later
"""The transport's reading of ``xl list``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import Cause, TransportError
from xen_transport.toolstack import parse_domain_list

LIST = """\
libxl: warning: something
Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0   512     1     r-----      23.1
vm1                                          3   160     1     -b----       4.0
my vm 2                                      4   160     1     --p---       4.0
(null)                                       5     0     1     --p--d       4.0
vm4                                          6   160     1     ---sc-       4.0
vm5                                          7   160     1     ---s--       4.0
vm6                                          8   160     1     ------       4.0
vm7                                          9   160     1     ---ss-       4.0
vm8                                         10   160     1     --pss-       4.0
vm9                                         11   160     1     ---sr-       4.0
vm10                                        12   160     1     ---sw-       4.0
"""


def test_each_state_of_xl_list_is_read() -> None:
    assert {domid: report.state for domid, report in parse_domain_list(LIST).items()} == {
        0: DomainState.RUNNING,
        3: DomainState.RUNNING,
        4: DomainState.PAUSED,
        5: DomainState.DYING,
        6: DomainState.CRASHED,
        7: DomainState.SHUTDOWN,
        8: DomainState.RUNNING,
        9: DomainState.PAUSED,  # suspended: it is being saved
        10: DomainState.PAUSED,
        11: DomainState.SHUTDOWN,
        12: DomainState.CRASHED,
    }


def test_each_cause_of_an_end_is_read() -> None:
    """What is wanted, and what has failed: as on any other hypervisor."""
    reports = parse_domain_list(LIST)
    assert [reports[domid].cause for domid in (4, 6, 7, 9, 11, 12)] == [
        Cause.LIKELY, Cause.FAILURE, Cause.ASKED, Cause.ASKED, Cause.REBOOT, Cause.FAILURE,
    ]  # fmt: skip
    assert "xl pause" in reports[4].why and "xl pause" in reports[10].why
    assert "migrated" in reports[9].why
    assert "watchdog" in reports[12].why


def test_something_else_is_no_empty_list() -> None:
    """A domain must not count as gone because xl has said something else."""
    with pytest.raises(TransportError):
        parse_domain_list(
            "xencall: error: Could not obtain handle on privileged command interface\n"
        )


@given(st.text())
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        assert all(domid >= 0 for domid in parse_domain_list(text))
        parse_domain_list("Name  ID  Mem VCPUs State Time(s)\n" + text)
    except TransportError:
        pass
