# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes' power switch, like that of a rack: independent of the nodes' network.

It is a Unix socket, in each node ``/run/lab/power.sock``.  A request is a line
``ACTION [NODE]``, and so is its answer, which begins with ``error`` after a failure:

=================  =======================================================
``list``           names of the nodes
``status NODE``    ``on`` or ``off``
``off NODE``       power is cut
``on NODE``        power is back; Corosync, Pacemaker and vesperd start
``reboot NODE``    off now, on after :data:`BOOT_TIME_S` seconds
=================  =======================================================

``fence_lab`` in the nodes is Pacemaker's way to it.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.cluster.node import ClusterError, Node

__all__ = ["PowerCut", "PowerSwitch", "Rack"]

#: A node takes longer to boot than the others take to notice that it is off.
BOOT_TIME_S = 5.0
_POLL_INTERVAL_S = 0.05
#: For a client to send its request.
_REQUEST_LIMIT_S = 2.0


@dataclass(frozen=True)
class PowerCut:
    """A node lost its power."""

    node: str
    at: float  #: s, CLOCK_REALTIME


class Rack(Protocol):
    """The nodes that the switch powers: a :class:`lab.cluster.lab.ClusterLab`."""

    nodes: list[Node]

    def find_node(self, name: str) -> Node:
        """Return the node of that name. :raises ClusterError: no such node."""

    def power_on(self, node: Node) -> Node:
        """Start a node that is off; return it as it runs now."""

    def start_services(self, node: Node) -> None:
        """Start what runs in a node besides the cluster."""


class PowerSwitch:
    """A thread that serves the socket.

    It lives as long as the lab: a node dies with the thread that started it.
    """

    def __init__(self, rack: Rack, path: Path) -> None:
        #: of all nodes so far, in order
        self.cuts: list[PowerCut] = []
        self._rack = rack
        self._lock = threading.Lock()
        self._boots: dict[str, float] = {}  # when a node is switched on, CLOCK_MONOTONIC
        self._end = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        os.chmod(path, 0o666)  # agents may run as hacluster
        self._socket.listen(16)
        self._thread = threading.Thread(
            target=self._serve_requests, daemon=True, name="power switch"
        )
        self._thread.start()

    def end_serving(self) -> None:
        """End the thread, and close the socket."""
        self._end.set()
        self._thread.join(30)
        self._socket.close()

    def handle_request(self, action: str, name: str = "") -> str:
        """Do what a request over the socket asks; return its answer."""
        try:
            with self._lock:
                return self._perform_action(action, name)
        except (ClusterError, OSError) as error:
            return f"error {str(error).splitlines()[0]}"

    def _perform_action(self, action: str, name: str) -> str:
        if action == "list":
            return " ".join(node.name for node in self._rack.nodes)
        node = self._rack.find_node(name)
        match action:
            case "status":
                return "on" if node.is_running() else "off"
            case "off":
                self._boots.pop(name, None)
                self._cut_node_power(node)
            case "on":
                self._boots.pop(name, None)
                self._boot_node_again(node)
            case "reboot":
                self._cut_node_power(node)
                self._boots[name] = time.monotonic() + BOOT_TIME_S
            case _:
                return f"error no such action: {action}"
        return "ok"

    def _cut_node_power(self, node: Node) -> None:
        if node.is_running():
            node.cut_power()
            self.cuts.append(PowerCut(node.name, time.time()))

    def _boot_node_again(self, node: Node) -> None:
        if not node.is_running():
            self._rack.start_services(self._rack.power_on(node))

    def _serve_requests(self) -> None:
        while not self._end.is_set():
            if select.select([self._socket], [], [], _POLL_INTERVAL_S)[0]:
                self._answer_request(self._socket.accept()[0])
            for name, at in list(self._boots.items()):
                if time.monotonic() >= at:
                    self.handle_request("on", name)

    def _answer_request(self, connection: socket.socket) -> None:
        connection.settimeout(_REQUEST_LIMIT_S)
        try:
            with connection, connection.makefile() as lines:
                action, _, name = lines.readline().strip().partition(" ")
                connection.sendall(f"{self.handle_request(action, name)}\n".encode())
        except OSError:
            pass
