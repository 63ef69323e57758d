# SPDX-License-Identifier: GPL-2.0-or-later
"""Which domain is a resource's own, in single steps. (All situations: test_identity_table.py.)"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.ocf.support.host import Host, LibvirtHost

SUCCESS, ERROR, CONFIGURED, NOT_RUNNING, DEGRADED = 0, 1, 6, 7, 190


def rename(host: Host, name: str) -> None:
    """Edit the configuration file: another name."""
    host.config.write_text(host.config_text.replace("vm1", name))


def spoil(host: Host, how: str) -> None:
    """Take the name out of the configuration."""
    if how == "gone":
        host.config.unlink()
    else:
        text = host.config.read_text()
        host.config.write_text("" if how == "empty" else text[: text.index("vm1") + 1])


@pytest.mark.parametrize("how", ["gone", "empty", "cut off"])
@pytest.mark.parametrize("begun", ["start", "monitor"])
def test_the_configuration_is_lost_while_it_runs(host: Host, begun: str, how: str) -> None:
    if begun == "monitor":  # it was found by a probe
        host.have(vm1="running")
    assert host.call(begun).code == SUCCESS
    spoil(host, how)
    assert host.call("monitor").code == SUCCESS
    result = host.call("monitor", interval=10, timeout=14)
    assert result.code == DEGRADED  # there is no vesperd
    assert host.call("stop").code == SUCCESS
    assert host.running() == []
    # Nothing of it is left to go by, and nothing is said to run.
    assert host.call("monitor").code == NOT_RUNNING


def test_another_name_in_the_file_counts_from_the_next_start(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    assert host.call("start").code == SUCCESS
    host.domains(*host.listed(), host.vm("new"))
    rename(host, "new")
    result = host.call("monitor", interval=10, timeout=14)
    assert result.code == DEGRADED
    assert "vm1 runs, but the configuration names new" in (result.reason or "")
    # It does not wait without saying so the next time either.
    assert host.call("monitor", interval=10, timeout=14).code == DEGRADED
    assert host.call("stop").code == SUCCESS
    assert host.running() == ["new"]
    assert host.call("start").code == SUCCESS
    assert host.call("monitor", interval=10, timeout=14).code == SUCCESS


def test_one_domain_belongs_to_one_resource(host: Host) -> None:
    """The latest probe that found it has it."""
    host.have(vm1="running")
    assert host.call("monitor").code == SUCCESS
    other = {"OCF_RESOURCE_INSTANCE": "r2"}
    assert host.call("monitor", **other).code == SUCCESS
    result = host.call("monitor", interval=10, timeout=14)
    assert result.code == DEGRADED
    assert "belongs to resource r2" in (result.reason or "")
    result = host.call("stop")
    assert result.code == ERROR
    assert "belongs to resource r2" in (result.reason or "")
    assert host.running() == ["vm1"]
    assert host.call("stop", **other).code == SUCCESS
    assert host.running() == []
    assert host.call("stop").code == SUCCESS


def test_what_is_left_of_another_resource_fails_no_stop(host: Host) -> None:
    """It was deleted from the cluster, and its domain has gone."""
    host.have(vm1="running")
    assert host.call("monitor", OCF_RESOURCE_INSTANCE="deleted").code == SUCCESS
    host.domains()
    assert host.call("monitor", interval=10, timeout=14).code == NOT_RUNNING
    assert host.call("stop").code == SUCCESS


def test_a_domain_that_another_file_names_by_now_is_not_migrated(host: Host) -> None:
    """The target would look for the other name, and a stop there would find nothing."""
    assert host.call("start").code == SUCCESS
    rename(host, "new")
    result = host.call("migrate_to", OCF_RESKEY_CRM_meta_migrate_target="node2")
    assert result.code == ERROR
    assert "not migrated live: vm1 runs, but" in (result.reason or "")
    assert host.calls("migrate") == []


def test_a_name_that_no_list_can_show(host: Host) -> None:
    result = host.call("start", OCF_RESKEY_name="a\nb")
    assert result.code == CONFIGURED
    assert host.calls("create") == []


@pytest.mark.parametrize("name", ["7", "-x", "my vm", "load50%", "123456789012345678901234567890"])
def test_names_that_a_toolstack_could_misunderstand(host: Host, name: str) -> None:
    """A name that works with the stock agent works here; no other domain is touched."""
    host.domains(host.vm("victim"))
    host.call("monitor", OCF_RESOURCE_INSTANCE="r2", OCF_RESKEY_name="victim")
    named = {"OCF_RESKEY_name": name}
    assert host.call("start", **named).code == SUCCESS
    assert set(host.running()) == {"victim", name}
    assert host.call("monitor", **named).code == SUCCESS
    result = host.call("stop", timeout=15, OCF_RESKEY_shutdown_timeout="0", **named)
    assert result.code == SUCCESS
    assert host.running() == ["victim"]


def test_each_command_names_the_domain_by_what_is_unique(host: Host) -> None:
    assert host.call("start").code == SUCCESS
    ident = host.ident("vm1")
    assert host.call("stop").code == SUCCESS
    (shutdown,) = [call for call in host.raw_calls() if call.startswith("shutdown")]
    assert shutdown.split()[1] == ident


def test_a_domain_that_was_renamed_while_it_ran(xen: Host) -> None:
    """xl rename: it is the same domain, by its number."""
    assert xen.call("start").code == SUCCESS
    number = xen.ident("vm1")
    ids = xen.fake / "ids"
    ids.write_text(ids.read_text().replace(" vm1", " by-hand"))
    xen.domains(xen.vm("by-hand"))
    assert xen.call("monitor").code == SUCCESS
    assert xen.call("stop").code == SUCCESS
    assert xen.running() == []
    assert f"shutdown {number}" in xen.raw_calls()


def test_the_number_comes_before_the_name(xen: Host) -> None:
    """It was renamed by hand, and somebody has made another one of the old name."""
    assert xen.call("start").code == SUCCESS
    ids = xen.fake / "ids"
    ids.write_text(ids.read_text().replace(" vm1", " by-hand"))
    xen.domains(xen.vm("by-hand"), xen.vm("vm1"))
    assert xen.call("stop").code == SUCCESS
    assert xen.running() == ["vm1"]


def test_a_host_with_very_many_domains(host: Host) -> None:
    """Their list is longer than 64 KiB."""
    host.domains(*(host.vm(f"a-guest-with-a-rather-long-name-{i:04}") for i in range(1400)),
                 host.vm("vm1"))  # fmt: skip
    if isinstance(host, LibvirtHost):
        assert host.call("monitor", timeout=60).code == SUCCESS
        return
    # The scripted xl would start processes for each domain: its list is made once.
    number = "\n".join(f"{10 + i} a-guest-with-a-rather-long-name-{i:04}" for i in range(1400))
    (host.fake / "ids").write_text(f"{number}\n7 vm1\n")
    host.script("xl", f'exec cat "{_long_list(host)}"')
    assert host.call("monitor", timeout=60).code == SUCCESS


def _long_list(host: Host) -> Path:
    lines = [f"{'Name':40} {'ID':>5} {'Mem':>5} {'VCPUs':>5}\t{'State':>5}\t{'Time(s)'}"]
    lines += [f"{'Domain-0':40} {0:5} {512:5} {1:5}     r-----      12.3"]
    for i, line in enumerate(host.listed()):
        name, _, flags = line.rpartition(" ")
        lines.append(f"{name:40} {i + 7:5} {160:5} {1:5}     {flags}       4.5")
    path = host.folder / "long-list"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("mood", ["cut", "german"])
def test_what_is_not_understood_is_not_known(host: Host, mood: str) -> None:
    host.have(vm1="running")
    host.be(mood)
    assert host.call("monitor", timeout=10).code == ERROR
    assert host.call("monitor", interval=10, timeout=14).code == DEGRADED
    result = host.call("stop", timeout=8)
    assert result.code == ERROR
    assert host.running() == ["vm1"]


def test_a_start_looks_whether_it_runs(host: Host) -> None:
    """xl, or libvirtd, says that it has created it, and there is no such domain."""
    host.tool.rename(host.bin / "real")
    host.script(host.command, 'case "$*" in *create*) exit 0; esac\nexec real "$@"')
    result = host.call("start")
    assert result.code == ERROR
    assert "lists no running vm1" in (result.reason or "")


# -- vesperd against the toolstack --------------------------------------------------------


def test_a_sign_of_life_contradicts_a_list(host: Host) -> None:
    """The list is wrong for a moment: the agent looks again."""
    host.have(vm1="running")
    assert host.call("monitor").code == SUCCESS
    ident = host.ident("vm1")
    host.domains()
    host.vesperd.listen()
    host.vesperd.answers["life"] = lambda _: {"age": 0.4}
    monitor, begun = host.begin("monitor", timeout=20), time.monotonic()
    while not host.vesperd.asked("life"):
        time.sleep(0.02)
    host.have(vm1="running")
    assert host.end(monitor, begun).code == SUCCESS
    assert host.vesperd.asked("life")[0] == {"op": "life", "vm": "vm1", "domain": ident}


@pytest.mark.parametrize("action", ["monitor", "start", "stop"])
def test_a_contradiction_that_lasts_is_not_known(host: Host, action: str) -> None:
    host.have(vm1="running")
    assert host.call("monitor").code == SUCCESS
    host.domains()
    host.vesperd.listen()
    host.vesperd.answers["life"] = lambda _: {"age": 0.4}
    result = host.call(action, timeout=8)
    assert result.code == ERROR
    assert "showed life to vesperd" in (result.reason or "")
    assert not host.calls("create")


@pytest.mark.parametrize("answer", [{"age": 12.0}, {"age": None}, {}, None])
def test_an_old_sign_of_life_contradicts_nothing(host: Host, answer: dict[str, float]) -> None:
    host.have(vm1="running")
    assert host.call("monitor").code == SUCCESS
    host.domains()
    host.vesperd.listen()
    host.vesperd.answers["life"] = lambda _: answer
    assert host.call("monitor").code == NOT_RUNNING
    result = host.call("stop")
    assert result.code == SUCCESS
    assert result.seconds < 9  # on Xen it might be rebooting


def test_vesperd_remembers_what_a_resource_runs(host: Host) -> None:
    """The state folder is empty, and the configuration is gone."""
    host.have(vm1="running")
    host.call("monitor")
    ident = host.ident("vm1")
    (host.folder / "rsctmp" / "vesper-r1.domain").unlink()
    host.config.unlink()
    host.vesperd.listen()
    host.vesperd.answers["life"] = lambda asked: (
        {"vm": "vm1", "domid": int(ident) if ident.isdecimal() else 3, "uuid": ident, "age": None}
        if asked.get("resource") == "r1"
        else {"age": None}
    )
    host.vesperd.answers["alive"] = lambda _: {"alive": False}
    assert host.call("monitor").code == SUCCESS
    assert host.call("stop").code == SUCCESS
    assert host.running() == []


# -- degraded monitors ----------------------------------------------------------------------


def test_who_does_not_watch_it_does_not_see_its_end(host: Host) -> None:
    """An answer "degraded" is followed by a look of the agent's own."""
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "degraded", "reason": "not watched"}
    host.have(vm1="running")
    assert host.call("monitor", interval=10, timeout=14).code == DEGRADED
    host.domains()
    assert host.call("monitor", interval=10, timeout=14).code == NOT_RUNNING


def test_a_degraded_monitor_does_its_side_work_too(kvm: Host) -> None:
    host = kvm
    host.script("crm_resource", f'echo "$*" >>{host.folder}/told')
    (host.fake / "sizes").write_text("vm1 2048 4\n")
    text = host.config_text.replace("<devices>", "<vcpu>4</vcpu><devices>")
    (host.fake / "live.xml").write_text(text)
    host.have(vm1="running")
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "degraded", "reason": "no modules"}
    wanted = {"OCF_RESKEY_save_config_on_stop": "1", "OCF_RESKEY_autoset_utilization_cpu": "1"}
    assert host.call("monitor", interval=10, timeout=14, **wanted).code == DEGRADED
    assert "<vcpu>4" in host.config.read_text()
    assert "cpu --parameter-value 4" in (host.folder / "told").read_text()


def test_the_cause_of_an_end_that_was_not_watched_well(host: Host) -> None:
    """vesperd learns it a moment after it has lost the guest."""
    host.vesperd.listen()
    answers = iter(
        [
            {"result": "degraded", "reason": "vm1 is not watched"},
            {"result": "dead", "reason": "its watchdog has expired", "state": "gone",
             "cause": "failure"},
        ]
    )  # fmt: skip
    host.vesperd.answers["wait"] = lambda _: next(answers)
    result = host.call("monitor", interval=10, timeout=14)
    assert result.code == NOT_RUNNING
    assert result.reason == "its watchdog has expired"
