# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent as Pacemaker's and crmsh's own tools see it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from lab.cluster import ClusterLab, Node


def validate(node: Node, **options: str) -> tuple[int, str]:
    """``crm_resource --validate``: the agent's exit code and reason."""
    words = [word for k, v in options.items() for word in ("--option", f"{k}={v}")]
    # fmt: off
    done = node.run(
        "crm_resource", "--validate", "--class", "ocf", "--provider", "vesper",
        "--agent", "XenVM", *words, "--output-as=xml", check=False,
    )
    # fmt: on
    status = ElementTree.fromstring(done.stdout).find(".//agent-status")
    assert status is not None
    return int(status.get("code") or -1), status.get("reason") or ""


def test_validate(lab: ClusterLab) -> None:
    node = lab.nodes[0]
    assert validate(node, xmfile="/etc/xen/vm1.cfg", shutdown_timeout="20") == (0, "")
    code, reason = validate(node, xmfile="/etc/xen/vm1.cfg", shutdown_timeout="soon")
    assert code == 6
    assert "shutdown_timeout=soon" in reason


def test_crmsh_shows_the_agent(lab: ClusterLab) -> None:
    shown = lab.nodes[0].run("crm", "-D", "plain", "ra", "info", "ocf:vesper:XenVM").stdout
    for word in ("xmfile*", "shutdown_timeout", "services", "monitor", "degraded", "keep_crashed"):
        assert word in shown


def test_crmsh_takes_the_stock_agents_configuration(lab: ClusterLab) -> None:
    """Only the agent's name differs; nothing is warned of."""
    node = lab.nodes[0]
    # fmt: off
    done = node.run(
        "crm", "-D", "plain", "configure", "primitive", "stock", "ocf:vesper:XenVM",
        "params", "xmfile=/etc/xen/vm1.cfg", "name=vm1", "shutdown_timeout=20",
        "shutdown_acpi=0", "allow_mem_management=0", "reserved_Dom0_memory=512",
        "node_ip_attribute=migration-ip", "autoset_utilization_cpu=false",
        "autoset_utilization_hv_memory=false", "monitor_scripts=/bin/true",
        "op", "start", "timeout=60s", "op", "stop", "timeout=40s",
        "op", "migrate_to", "timeout=120s", "op", "migrate_from", "timeout=120s",
        "op", "monitor", "interval=10s", "timeout=30s",
        "meta", "allow-migrate=true", "target-role=Stopped",
    )
    # fmt: on
    try:
        said = done.stdout + done.stderr
        assert "ERROR" not in said
        assert "advised" not in said
    finally:
        node.run("crm", "-F", "configure", "delete", "stock")


def test_ocf_tester(lab: ClusterLab) -> None:
    """Starts, stops and monitors in all orders, each twice."""
    node = lab.nodes[0]
    node.write("/etc/xen/tested.cfg", 'name = "tested"\nmemory = 64\n')
    try:
        # fmt: off
        done = node.run(
            "ocf-tester", "-n", "tested", "-o", "xmfile=/etc/xen/tested.cfg",
            "/usr/lib/ocf/resource.d/vesper/XenVM",
            timeout=180, check=False, environment={"OCF_ROOT": "/usr/lib/ocf"},
        )
        # fmt: on
    finally:
        node.run("xl", "destroy", "tested", check=False)
    complaints = [line for line in done.stdout.splitlines() if line.startswith("* rc=")]
    # ocf-tester 4.12 knows meta-data of version 1.0 only, by a DTD (which
    # rejects unique-group and reloadable) and a program that is not here.
    known = "Your agent produces meta-data which does not conform to ra-api-1.dtd"
    assert [line for line in complaints if known not in line] == [], done.stdout + done.stderr
    assert "migrate action (optional)" not in done.stdout
    assert "failed 1 tests" in done.stderr or done.returncode == 0
