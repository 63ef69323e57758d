# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster lab: a cluster of namespace nodes that is brought up and taken down."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import images
from lab.cluster import files, layers
from lab.cluster.node import ENVIRONMENT, ClusterError, Node, wait_until
from lab.cluster.power import PowerSwitch
from lab.host import VESPERD_SETTINGS
from lab.progress import show_step

__all__ = ["STATE", "ClusterLab"]

#: Folders of labs that are up.  A folder without a lock is left from a killed lab.
STATE = Path("/run/vesper-lab")
PREFIX = "cluster-"

HERE = Path(__file__).parent

#: Folders of a node, on this machine.
FOLDERS = (
    "mnt", "log/pacemaker", "log/corosync", "log/standin", "state", "cib", "corosync"
)  # fmt: skip


class ClusterLab:
    """N nodes with Corosync, Pacemaker and vesperd, as a context manager.

    Everything dies with the *thread* that entered it (PR_SET_PDEATHSIG), so
    enter it in the main one.

    :param nodes: how many.
    :param remotes: how many of Pacemaker Remote besides (the last in ``nodes``).
    :param properties: of the cluster, over :data:`lab.cluster.files.PROPERTIES`.
    :param vesperd: start it in each node.
    :param vesperd_config: its vesperd.toml.
    :param timeout: seconds until all nodes must be online.
    :param fencing: the nodes have a power switch (:mod:`lab.cluster.power`), and Pacemaker
        may use it on them.
    """

    def __init__(
        self,
        nodes: int = 2,
        *,
        remotes: int = 0,
        properties: Mapping[str, str] | None = None,
        vesperd: bool = True,
        vesperd_config: str = "",
        timeout: float = 60.0,
        fencing: bool = False,
    ) -> None:
        self.nodes: list[Node] = []
        self.power: PowerSwitch | None = None
        self._count = nodes
        self._remotes = [files.make_remote_name(number) for number in range(1, remotes + 1)]
        self._names = [
            files.make_node_name(number) for number in range(1, nodes + 1)
        ] + self._remotes
        self._properties = properties
        self._vesperd = vesperd
        self._vesperd_config = vesperd_config
        self._timeout = timeout
        self._fencing = fencing
        self._stack = ExitStack()
        self._links = itertools.count(1)
        #: port of the switch by node
        self._ports: dict[str, str] = {}
        self._cut: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = stack.enter_context(_LockedDirectory())
            with show_step("cluster lab: preparing the nodes' files"):
                self._layers = self._make_layers(self.directory / "layers")
            with show_step(f"cluster lab: starting {len(self._names)} nodes"):
                self._switch = _spawn_until_closed(
                    stack, ["unshare", "-n", "--", "sleep", "infinity"]
                )
                self._make_switch()
                self._processes: dict[str, ExitStack] = {}
                stack.callback(self._end_all_nodes)
                if self._fencing:
                    self.power = PowerSwitch(self, self.directory / "power.sock")
                    stack.callback(self.power.end_serving)
                for number in range(1, len(self._names) + 1):
                    self.nodes.append(self._start_node_process(number))
                self._wait_online()
            self._start_daemons()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # -- what a lab with other guests does in its own way ---------------------

    #: Whether each node has a bridge for its guests (its part of the network
    #: :data:`lab.cluster.files.GUESTS`).
    guests = False

    def _make_layers(self, directory: Path) -> list[Path]:
        """Return the layers of the nodes' root, the topmost first."""
        made = layers.make_layers(directory)
        return [images.remote_layer(), *made] if self._remotes else made

    def _start_daemons(self) -> None:
        """Start what runs in the nodes besides the cluster."""
        if self._vesperd:
            with show_step("cluster lab: starting vesperd"):
                for node in self.nodes:
                    node.start_vesperd(wait=0)
                for node in self.nodes:
                    _wait_vesperd(node)

    def _node_files(self, number: int) -> dict[str, str]:
        """Return a node's own files: texts by path from its folder (``etc/...``)."""
        name = self._names[number - 1]
        remote = {"etc/pacemaker/remote": ""} if name in self._remotes else {}
        return {
            **remote,
            "etc/pacemaker/authkey": "of this lab\n",
            "etc/hostname": name + "\n",
            "etc/hosts": files.make_hosts_file(self._names),
            "etc/corosync/corosync.conf": files.corosync_conf(self._count, fencing=self._fencing),
            "etc/default/pacemaker": files.pacemaker_defaults(),
            "etc/vesper/vesperd.toml": VESPERD_SETTINGS + self._vesperd_config,
            "cib.xml": files.make_initial_cib(
                self._properties, self._remotes, fencing=self._names if self._fencing else ()
            ),
        }

    # -- nodes ----------------------------------------------------------------

    def find_node(self, name: str) -> Node:
        """Return the node of that name. :raises ClusterError: no such node."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise ClusterError(f"there is no node {name}; there are {names}")

    def power_on(self, node: Node) -> Node:
        """Start a node that was killed; its journal is as it was.

        :returns: the node, in its new life.
        """
        new = self._start_node_process(node.number)
        for _ in wait_until(f"{node.name}: its own root", 10):
            if new.run("test", "-e", "/run/lab/node-main", check=False).returncode == 0:
                break
        self.nodes[self.nodes.index(node)] = new
        return new

    def start_services(self, node: Node) -> None:
        """Start what runs in a node besides the cluster."""
        node.start_vesperd(wait=0)

    def _start_node_process(self, number: int) -> Node:
        name = self._names[number - 1]
        directory = self.directory / name
        self._prepare_directory(directory, number)
        stack = self._processes[name] = ExitStack()
        with (directory / "log/init.log").open("ab") as log:
            # fmt: off
            process = _spawn_until_closed(
                stack,
                [
                    "unshare", "-n", "-m", "-u", "-i", "-p", "-f", "--kill-child=KILL", "--",
                    "sh", str(directory / "node-mounts"), str(directory),
                    ":".join(map(str, self._layers)), name, files.make_node_address(number),
                    *([files.make_guests_address(number)] if self.guests else []),
                ],
                log=log.fileno(),
            )
            # fmt: on
        init = _find_namespace_init(process)
        node = Node(name, number, directory, init)
        try:
            self._connect_to_switch(node)
        except ClusterError as error:
            said = (directory / "log/init.log").read_text(errors="replace")[-2000:]
            raise ClusterError(f"{name} does not start: {error}\n{said}") from error
        return node

    def _prepare_directory(self, directory: Path, number: int) -> None:
        for folder in FOLDERS:
            (directory / folder).mkdir(parents=True, exist_ok=True)
        for path, text in self._node_files(number).items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text)
        for script in ("node-mounts", "node-main", "node-cluster"):
            shutil.copy(HERE / script, directory)

    def _end_all_nodes(self) -> None:
        for stack in self._processes.values():
            stack.close()

    # -- network --------------------------------------------------------------

    def _run_ip_in_switch(self, *words: str) -> None:
        """Run ``ip`` in the switch's network namespace."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._switch.pid), "-n", "--", "ip", *words],
            capture_output=True,
            text=True,
            timeout=10,
        )
        if done.returncode != 0:
            raise ClusterError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def _make_switch(self) -> None:
        namespace = f"/proc/{self._switch.pid}/ns/net"
        for _ in wait_until("network namespace of the switch", 10, 0.01):
            if os.readlink(namespace) != os.readlink("/proc/self/ns/net"):
                break
        self._run_ip_in_switch(
            "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"
        )
        self._run_ip_in_switch("link", "set", "br0", "up")

    def _connect_to_switch(self, node: Node) -> None:
        port = f"port{next(self._links)}"
        # fmt: off
        self._run_ip_in_switch("link", "add", port, "type", "veth",
                 "peer", "name", "eth0", "netns", str(node.init))
        # fmt: on
        self._ports[node.name] = port
        self._run_ip_in_switch(
            "link", "set", port, "master", "br0", "down" if node.name in self._cut else "up"
        )

    def cut_off(self, node: Node) -> None:
        """Pull the cable between the node and the others; it stays out over a power cut."""
        self._cut.add(node.name)
        self._run_ip_in_switch("link", "set", self._ports[node.name], "down")

    def reconnect_node(self, node: Node) -> None:
        """Plug the cable in again."""
        self._cut.discard(node.name)
        if node.is_running():
            self._run_ip_in_switch("link", "set", self._ports[node.name], "up")

    # -- the cluster ----------------------------------------------------------

    def _wait_online(self) -> None:
        names = {node.name for node in self.nodes}
        online: set[str] = set()
        try:
            for _ in wait_until("all nodes online with a DC", self._timeout, 0.2):
                for node in self.nodes:
                    if not node.is_running():
                        raise ClusterError(f"{node.name} has ended")
                online = self.list_online()
                if online == names:
                    return
        except ClusterError as error:
            logs = "\n".join(
                (node.directory / "log/init.log").read_text(errors="replace")[-1000:]
                for node in self.nodes
            )
            raise ClusterError(f"{error} (online: {sorted(online)})\n{logs}") from error

    def list_online(self) -> set[str]:
        """Return the names of the online nodes, as the first one sees it; none without a DC."""
        status = self.read_status()
        if status is None:
            return set()
        dc = status.find("./summary/current_dc")
        if dc is None or dc.get("present") != "true":
            return set()
        return {
            str(node.get("name"))
            for node in status.findall("./nodes/node")
            if node.get("online") == "true" and node.get("pending") == "false"
        }

    def read_status(self, node: Node | None = None) -> ElementTree.Element | None:
        """Return ``crm_mon`` as XML; None if Pacemaker does not answer there."""
        node = node or next((node for node in self.nodes if node.is_running()), None)
        if node is None:
            return None
        done = node.run("crm_mon", "-1", "-r", "-f", "--output-as=xml", check=False, timeout=20)
        if done.returncode != 0 or not done.stdout.startswith("<"):
            return None
        return ElementTree.fromstring(done.stdout)


# -- processes and folders ------------------------------------------------------


def _spawn_until_closed(
    stack: ExitStack, command: list[str], log: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one, or when the stack is closed."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if log is None else log,
        stderr=subprocess.DEVNULL if log is None else log,
        env=ENVIRONMENT,
        start_new_session=True,
    )

    def kill_process() -> None:
        process.kill()
        process.wait(timeout=10)

    stack.callback(kill_process)
    return process


def _find_namespace_init(process: subprocess.Popen[bytes]) -> int:
    """PID 1 of the namespace that ``unshare --fork`` has made."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in wait_until("start of a node", 10, 0.005):
        if process.poll() is not None:
            raise ClusterError("unshare failed; are namespaces permitted here?")
        found = children.read_text().split()
        if found:
            return int(found[0])
    raise AssertionError


def _wait_vesperd(node: Node) -> None:
    socket = node.host_path("/run/vesper/vesperd.sock")
    for _ in wait_until(f"{node.name}: vesperd (see {node.vesperd_log})", 30):
        if socket.exists():
            return


class _LockedDirectory:
    """A folder of this lab's own, locked while it is in use."""

    def __enter__(self) -> Path:
        STATE.mkdir(parents=True, exist_ok=True)
        _remove_remains()
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=STATE))
        path.chmod(0o755)
        self._path = path
        self._lock = (path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (path / "layers").mkdir()
        return path

    def __exit__(self, *_error: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        self._lock.close()


def _remove_remains() -> None:
    """Remove what labs left whose owner was killed; their processes and mounts died with it."""
    for path in STATE.glob(PREFIX + "*"):
        try:
            with (path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # in use, or just being made
