# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made of xl's answers: never "gone" by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ocf.support.host import Host
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError, run_command
from vesper_monitor.ocf.xen.xl import Xl, parse_list

HEADER = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n"


@pytest.fixture
def xen_host(xen: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that seems to run on Xen; this process uses its xl."""
    monkeypatch.setenv("PATH", f"{xen.bin}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_XL", str(xen.fake))
    (xen.folder / "sys/hypervisor").mkdir(parents=True)
    (xen.folder / "sys/kernel").mkdir()
    (xen.folder / "sys/hypervisor/type").write_text("xen\n")
    return xen


def test_an_error_of_xl_on_a_xen_host_is_no_answer(xen_host: Host) -> None:
    xen_host.be("broken")
    with pytest.raises(ToolstackError, match="cannot open xenstore"):
        Xl(str(xen_host.folder)).list_states(5)


def test_an_error_of_xl_without_a_hypervisor_means_that_nothing_runs(xen_host: Host) -> None:
    xen_host.be("broken")
    (xen_host.folder / "sys/hypervisor/type").unlink()
    assert Xl(str(xen_host.folder)).list_states(5).get("vm1", DomainState.GONE) is DomainState.GONE


def test_no_xl_on_a_xen_host_is_no_answer(xen_host: Host) -> None:
    xen_host.tool.unlink()
    with pytest.raises(ToolstackMissingError):
        Xl(str(xen_host.folder)).list_states(5)


def test_absence_is_not_claimed_without_a_sysfs(tmp_path: Path) -> None:
    assert not Xl(str(tmp_path)).is_absent()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    assert Xl(str(tmp_path)).is_absent()
    (tmp_path / "proc/xen").mkdir(parents=True)
    assert not Xl(str(tmp_path)).is_absent()


def test_a_hanging_command_is_killed(tmp_path: Path) -> None:
    with pytest.raises(ToolstackError, match="did not finish within"):
        run_command(["sleep", "600"], 0.2)


def test_names_with_blanks_and_warnings_before_the_list() -> None:
    text = "libxl: warning: what a day\n" + HEADER
    text += "Domain-0                                     0   512     1     r-----      12.3\n"
    text += "my vm                                        7   160     1     --p---       4.5\n"
    assert parse_list(text)["my vm"] == (DomainState.PAUSED, "7")
    assert "vm" not in parse_list(text)


@given(st.text())
def test_only_a_list_can_say_gone(text: str) -> None:
    try:
        state = parse_list(text).get("vm1", DomainState.GONE)
    except ToolstackError:
        return
    assert any(line.startswith("Name ") for line in text.splitlines())
    assert isinstance(state, DomainState)


def test_a_command_that_hangs_is_named_without_its_options() -> None:
    """A value may be long, and Pacemaker keeps 128 bytes of a reason."""
    with pytest.raises(ToolstackError) as error:
        run_command(["sleep", "1000"], 0.1)
    assert str(error.value) == "sleep 1000 did not finish within 0 s; check its daemon"
    with pytest.raises(ToolstackError) as error:
        run_command(["tail", "--follow", "/dev/null", "--pid=1"], 0.1)
    assert str(error.value) == "tail did not finish within 0 s; check its daemon"
