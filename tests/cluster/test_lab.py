# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: it leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from lab.cluster import ClusterLab
from lab.cluster.lab import PREFIX, STATE
from lab.cluster.node import wait_until

PROJECT = Path(__file__).resolve().parents[2]

OWNER = """
import time
from lab.cluster import ClusterLab
with ClusterLab(1, vesperd=False) as lab:
    print(lab.directory, lab.nodes[0].init, flush=True)
    time.sleep(600)
"""


def test_a_killed_lab_leaves_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            directory, init = owner.stdout.readline().split()
        finally:
            owner.send_signal(signal.SIGKILL)
    for _ in wait_until("end of the node", 10):
        if not Path(f"/proc/{init}").exists():
            break
    assert directory not in Path("/proc/mounts").read_text()
    # Its files are removed by the next one.
    with ClusterLab(1, vesperd=False) as lab:
        assert not Path(directory).exists()
        assert lab.directory.exists()
    assert not lab.directory.exists()


def test_a_node_comes_back_after_a_power_cut(lab: ClusterLab) -> None:
    node = lab.nodes[1]
    (node.directory / "state/mark").touch()
    node.cut_power()
    for _ in wait_until("the node's loss is noticed", 30, 0.2):
        if lab.list_online() == {lab.nodes[0].name}:
            break
    new = lab.power_on(node)
    for _ in wait_until("all online", 60, 0.2):
        if len(lab.list_online()) == 2:
            break
    assert new.host_path("/var/lib/vesper/mark").exists()
    new.start_vesperd()


def test_labs_do_not_disturb_each_other(lab: ClusterLab) -> None:
    before = set(STATE.glob(PREFIX + "*"))
    with ClusterLab(1, vesperd=False) as other:
        assert other.list_online() == {"node1"}
        assert len(lab.list_online()) == 2
    assert set(STATE.glob(PREFIX + "*")) == before


def test_a_node_is_fenced_and_comes_back() -> None:
    with ClusterLab(2, fencing=True) as lab:
        first, second = lab.nodes
        assert first.run("fence_lab", input="action=list\n").stdout == "node1,\nnode2,\n"
        off = first.run("fence_lab", "-o", "off", "-n", "nobody", check=False)
        assert off.returncode == 1
        assert "nobody" in off.stderr
        lab.cut_off(second)
        for _ in wait_until("the second node is fenced", 60, 0.2):
            if not second.is_running():
                break
        assert first.is_running()  # the one that shoots first
        status = first.run("fence_lab", "-o", "status", "-n", second.name, check=False)
        assert status.returncode == 2
        lab.reconnect_node(second)
        for _ in wait_until("all online", 60, 0.2):
            if len(lab.list_online()) == 2:
                break
        assert lab.nodes[1].init != second.init
        for _ in wait_until("vesperd runs", 20, 0.2):
            if lab.nodes[1].vesperd_pids():
                break
        assert lab.power is not None
        assert [cut.node for cut in lab.power.cuts] == [second.name]
