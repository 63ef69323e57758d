# SPDX-License-Identifier: GPL-2.0-or-later
"""The meta-data, and what a call costs."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree

import vesper_monitor
from tests.ocf.host import PROJECT, Host
from vesper_monitor.ocf.agent import DEFAULT_PROBES

#: The specification's schema; it is no part of the project.
SCHEMA = PROJECT.parent / "shared/ocf-spec/ra-api.rng"


def test_parameters_and_actions(host: Host) -> None:
    agent = ElementTree.fromstring(host.call("meta-data").stdout)
    assert agent.tag == "resource-agent"
    assert agent.get("name") == "XenVM"
    assert agent.get("version") == vesper_monitor.__version__
    assert agent.findtext("version") == "1.1"
    parameters = {p.get("name"): p for p in agent.iter("parameter")}
    # The stock agent's, with its meaning.
    assert parameters.keys() >= {"xmfile", "name", "shutdown_timeout", "probes", "services"}
    assert parameters["xmfile"].get("required") == "1"
    assert parameters["probes"].find("content").get("default") == DEFAULT_PROBES  # type: ignore[union-attr]
    for parameter in parameters.values():
        assert len((parameter.findtext("longdesc") or "").split()) > 5
    actions = {a.get("name") for a in agent.iter("action")}
    assert actions == {"start", "stop", "monitor", "status", "meta-data", "validate-all"}


def test_meta_data_need_no_environment() -> None:
    done = subprocess.run([PROJECT / "ocf/XenVM", "meta-data"], env={}, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""


if SCHEMA.exists():

    def test_meta_data_by_the_specification(host: Host) -> None:
        done = subprocess.run(
            ["xmllint", "--noout", "--relaxng", SCHEMA, "-"],
            input=host.call("meta-data").stdout,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_a_waiting_monitor_imports_little(host: Host) -> None:
    """What it imports it pays before each fault, in time and in memory."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import vesper_monitor.ocf.xen, "
        "vesper_monitor.ocf.monitor; print(*sys.modules)"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-SE", "-c", code, PROJECT], capture_output=True, text=True, check=True
    )
    heavy = {"asyncio", "dataclasses", "inspect", "subprocess", "typing", "logging", "argparse"}
    assert heavy & set(done.stdout.split()) == set()
