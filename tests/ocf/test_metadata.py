# SPDX-License-Identifier: GPL-2.0-or-later
"""The meta-data, and what a call costs."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import vesper_monitor
from tests.ocf.host import PROJECT, Host
from vesper_monitor.ocf.agent import DEFAULT_PROBES

#: Schemas to hold the meta-data against: the project's own, and where it is at
#: hand the specification's (ra-api.rng of OCF's Resource Agent API 1.1).
SCHEMAS = [Path(__file__).parent / "resource_agent.rng"]
SPECIFICATION = Path(
    os.environ.get("VESPER_OCF_SCHEMA") or PROJECT.parent / "shared/ocf-spec/ra-api.rng"
)
if SPECIFICATION.exists():
    SCHEMAS.append(SPECIFICATION)

#: ocf:heartbeat:Xen's parameters and their defaults (resource-agents 4.12).
STOCK_PARAMETERS = {
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
}


def test_parameters_and_actions(host: Host) -> None:
    agent = ElementTree.fromstring(host.call("meta-data").stdout)
    assert agent.tag == "resource-agent"
    assert agent.get("name") == "XenVM"
    assert agent.get("version") == vesper_monitor.__version__
    assert agent.findtext("version") == "1.1"
    parameters = {p.get("name"): p for p in agent.iter("parameter")}
    for name, default in STOCK_PARAMETERS.items():
        content = parameters[name].find("content")
        assert content is not None
        wanted = "false" if default is False else default
        assert content.get("default") == wanted, name
    assert [name for name, p in parameters.items() if p.get("required") == "1"] == ["xmfile"]
    # Another file or another name is another domain; all else takes effect on a running one.
    assert [n for n, p in parameters.items() if p.get("reloadable") == "0"] == ["xmfile", "name"]
    assert parameters["name"].get("unique-group") == "name"
    assert parameters["probes"].find("content").get("default") == DEFAULT_PROBES  # type: ignore[union-attr]
    for parameter in parameters.values():
        assert len((parameter.findtext("longdesc") or "").split()) > 5
    timeouts = {a.get("name"): a.get("timeout") for a in agent.iter("action")}
    assert timeouts.items() >= {
        "start": "60s",
        "stop": "40s",
        "monitor": "30s",
        "migrate_to": "120s",
        "migrate_from": "120s",
        "meta-data": "5s",
        "reload-agent": "20s",
    }.items()
    assert {a.get("depth") for a in agent.iter("action") if a.get("name") == "monitor"} == {
        "0", "10", "20",
    }  # fmt: skip


def test_each_action_is_known_to_the_agent(host: Host) -> None:
    agent = ElementTree.fromstring(host.call("meta-data").stdout)
    usage = host.call("usage").stdout
    for action in agent.iter("action"):
        assert str(action.get("name")) in usage
        # With a parameter that is wrong everywhere none gets far, but known it is.
        assert host.call(str(action.get("name")), OCF_RESKEY_xmfile="-").code != 3


def test_meta_data_need_no_environment() -> None:
    done = subprocess.run([PROJECT / "ocf/XenVM", "meta-data"], env={}, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.name)
def test_meta_data_by_a_schema(host: Host, schema: Path) -> None:
    text = host.call("meta-data").stdout
    assert valid(schema, text) == ""
    for broken in (
        text.replace('required="1"', 'required="yes"'),
        text.replace('type="string"', 'type="text"'),
        text.replace(' timeout="60s"', ""),
        text.replace("<version>1.1</version>", ""),
    ):
        assert broken != text
        assert valid(schema, broken) != ""


def valid(schema: Path, text: str) -> str:
    """What is wrong with a document; empty: nothing."""
    command = ["xmllint", "--noout", "--relaxng", str(schema), "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
    return "" if done.returncode == 0 else done.stderr


def test_a_waiting_monitor_imports_little(host: Host) -> None:
    """What it imports it pays before each fault, in time and in memory."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import vesper_monitor.ocf.xen, "
        "vesper_monitor.ocf.monitor; print(*sys.modules)"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-SE", "-c", code, PROJECT], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    heavy = {"asyncio", "dataclasses", "inspect", "subprocess", "typing", "logging", "argparse"}
    assert heavy & imported == set()
    ours = {name for name in imported if name.startswith("vesper_monitor.ocf.")}
    needed = {"actions", "agent", "call", "monitor", "parameters", "toolstack", "xen", "xl"}
    assert ours == {f"vesper_monitor.ocf.{name}" for name in needed}
