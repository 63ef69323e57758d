# SPDX-License-Identifier: GPL-2.0-or-later
"""The meta-data, and what a call costs."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import vesper_monitor
from tests.unit.ocf.support.host import PROJECT, Host
from vesper_monitor.ocf.settings import DEFAULT_PROBES

#: Schemas to hold the meta-data against: the project's own, and where it is at
#: hand the specification's (ra-api.rng of OCF's Resource Agent API 1.1).
SCHEMAS = [Path(__file__).parent / "resource_agent.rng"]
SPECIFICATION = Path(
    os.environ.get("VESPER_OCF_SCHEMA") or PROJECT.parent / "shared/ocf-spec/ra-api.rng"
)
if SPECIFICATION.exists():
    SCHEMAS.append(SPECIFICATION)

#: The stock agents' parameters and their defaults (resource-agents 4.12);
#: ocf:heartbeat:VirtualDomain chooses a migrateport at random.
STOCK_PARAMETERS: dict[str, dict[str, str | bool | None]] = {
    "XenVM": {
        "xmfile": None,
        "name": None,
        "shutdown_timeout": None,
        "shutdown_acpi": False,
        "allow_mem_management": False,
        "reserved_Dom0_memory": "512",
        "node_ip_attribute": None,
        "autoset_utilization_cpu": False,
        "autoset_utilization_hv_memory": False,
        "monitor_scripts": None,
    },
    "LibvirtVM": {
        "config": None,
        "hypervisor": None,
        "force_stop": False,
        "migration_transport": None,
        "migration_user": None,
        "migration_downtime": "0",
        "migration_speed": "0",
        "migration_network_suffix": None,
        "migrateuri": None,
        "migrate_options": None,
        "monitor_scripts": None,
        "autoset_utilization_cpu": True,
        "autoset_utilization_host_memory": True,
        "autoset_utilization_hv_memory": True,
        "unset_utilization_cpu": False,
        "unset_utilization_host_memory": False,
        "unset_utilization_hv_memory": False,
        "migrateport": None,
        "remoteuri": None,
        "save_config_on_stop": False,
        "sync_config_on_stop": False,
        "snapshot": None,
        "backingfile": None,
        "stateless": False,
        "copyindirs": None,
        "shutdown_mode": None,
        "start_resources": False,
    },
}
STOCK_TIMEOUTS = {
    "XenVM": {"start": "60s", "stop": "40s", "migrate_from": "120s"},
    "LibvirtVM": {"start": "90s", "stop": "90s", "migrate_from": "60s"},
}
#: Another one is another domain; all else takes effect on a running one.
NOT_RELOADABLE = {"XenVM": ["xmfile", "name"], "LibvirtVM": ["config", "name", "hypervisor"]}


def test_parameters_and_actions(host: Host) -> None:
    agent = ElementTree.fromstring(host.call("meta-data").stdout)
    assert agent.tag == "resource-agent"
    assert agent.get("name") == host.name
    assert agent.get("version") == vesper_monitor.__version__
    assert agent.findtext("version") == "1.1"
    parameters = {p.get("name"): p for p in agent.iter("parameter")}
    for name, default in STOCK_PARAMETERS[host.name].items():
        content = parameters[name].find("content")
        assert content is not None
        wanted = str(default).lower() if isinstance(default, bool) else default
        assert content.get("default") == wanted, name
    required = [name for name, p in parameters.items() if p.get("required") == "1"]
    assert required == [host.config_parameter]
    fixed = [name for name, p in parameters.items() if p.get("reloadable") == "0"]
    assert fixed == NOT_RELOADABLE[host.name]
    assert parameters["name"].get("unique-group") == "name"
    assert parameters["probes"].find("content").get("default") == DEFAULT_PROBES  # type: ignore[union-attr]
    for parameter in parameters.values():
        assert len((parameter.findtext("longdesc") or "").split()) > 5
    timeouts = {a.get("name"): a.get("timeout") for a in agent.iter("action")}
    common = {"monitor": "30s", "migrate_to": "120s", "meta-data": "5s", "reload-agent": "20s"}
    assert timeouts.items() >= (common | STOCK_TIMEOUTS[host.name]).items()
    assert {a.get("depth") for a in agent.iter("action") if a.get("name") == "monitor"} == {
        "0", "10", "20",
    }  # fmt: skip


#: All else of XenVM's LibvirtVM has, too.
XENS_OWN = {
    "xmfile", "shutdown_acpi", "keep_crashed", "allow_mem_management", "reserved_Dom0_memory",
    "node_ip_attribute", "poweroff_wanted",
}  # fmt: skip
#: What both agents have under one name and do not mean alike.
DIFFERENT = {
    "name",  # where it comes from
    "shutdown_timeout",  # its default
    "autoset_utilization_cpu",  # likewise
    "autoset_utilization_hv_memory",
}


def test_what_both_agents_have_is_told_in_the_same_words() -> None:
    agents = [
        ElementTree.parse(PROJECT / f"vesper_monitor/ocf/{name}.xml")
        for name in ("XenVM", "LibvirtVM")
    ]
    told = [
        {p.get("name", ""): ElementTree.tostring(p).strip() for p in agent.iter("parameter")}
        for agent in agents
    ]
    assert told[0].keys() - told[1].keys() == XENS_OWN
    both = (told[0].keys() & told[1].keys()) - DIFFERENT
    assert [name for name in both if told[0][name] != told[1][name]] == []
    # And in the manual pages.
    pages = [parameters_in(PROJECT / f"docs/man/ocf_vesper_{name}.7") for name in STOCK_PARAMETERS]
    for i, names in enumerate(told):
        assert names.keys() == pages[i].keys()
    assert [name for name in both if pages[0][name] != pages[1][name]] == []


def parameters_in(page: Path) -> dict[str, str]:
    """What a manual page says of each parameter."""
    text = page.read_text()
    section = text[text.index(".SH PARAMETERS") : text.index(".SH ACTIONS")]
    found = {}
    for entry in section.split(".TP\n")[1:]:
        head, _, said = entry.partition("\n")
        for name in head.replace('", "', " ").removeprefix(".B").removeprefix("R").split():
            if name not in ("(required)", '"', '(required)"'):
                found[name] = said.partition(".PP")[0]
    return found


def test_each_action_is_known_to_the_agent(host: Host) -> None:
    agent = ElementTree.fromstring(host.call("meta-data").stdout)
    usage = host.call("usage").stdout
    for action in agent.iter("action"):
        assert str(action.get("name")) in usage
        # With a parameter that is wrong everywhere none gets far, but known it is.
        wrong = {f"OCF_RESKEY_{host.config_parameter}": "-"}
        assert host.call(str(action.get("name")), **wrong).code != 3


def test_meta_data_need_no_environment(host: Host) -> None:
    done = subprocess.run([host.agent, "meta-data"], env={}, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.name)
def test_meta_data_by_a_schema(host: Host, schema: Path) -> None:
    text = host.call("meta-data").stdout
    assert valid(schema, text) == ""
    for broken in (
        text.replace('required="1"', 'required="yes"'),
        text.replace('type="string"', 'type="text"'),
        text.replace(' timeout="120s"', ""),
        text.replace("<version>1.1</version>", ""),
    ):
        assert broken != text
        assert valid(schema, broken) != ""


def valid(schema: Path, text: str) -> str:
    """What is wrong with a document; empty: nothing."""
    command = ["xmllint", "--noout", "--relaxng", str(schema), "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    ("module", "more"),
    [("xen", {"xl"}), ("libvirt", {"virsh", "virsh_call", "virsh_states"})],
    ids=["XenVM", "LibvirtVM"],
)
def test_a_waiting_monitor_imports_little(module: str, more: set[str]) -> None:
    """What it imports it pays before each fault, in time and in memory."""
    imported = imported_by(f"vesper_monitor.ocf.{module}.parameters, vesper_monitor.ocf.monitor")
    heavy = {
        "asyncio", "dataclasses", "inspect", "subprocess", "typing", "logging", "argparse", "xml",
        "lxml",
    }  # fmt: skip
    assert heavy & imported == set()
    ours = {name for name in imported if name.startswith("vesper_monitor.ocf.")}
    needed = {
        "actions", "agent", "domain_identity", "domain_lookup", "fast_common", "invocation",
        "monitor", "parameters", "settings", "status", "toolstack", "vesperd_requests", module,
    }  # fmt: skip
    needed |= {f"{module}.{name}" for name in {"parameters", *more}}
    assert ours == {f"vesper_monitor.ocf.{name}" for name in needed}


def test_a_quick_monitor_imports_next_to_nothing() -> None:
    """That is what it is for."""
    before, after = imported_by("os"), imported_by("vesper_monitor.ocf.fast_monitor")
    assert after - before == {
        "__future__", "_json", "_socket", "vesper_monitor", "vesper_monitor.ocf",
        "vesper_monitor.ocf.fast_common", "vesper_monitor.ocf.fast_monitor",
    }  # fmt: skip


def imported_by(modules: str) -> set[str]:
    """All that is there once those modules are, started as the agents are."""
    code = f"import sys; sys.path.append(sys.argv[1]); import {modules}; print(*sys.modules)"
    command = ["/usr/bin/python3", "-SE", "-c", code, str(PROJECT)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
