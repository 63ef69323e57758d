# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab as a whole: a cluster of namespace nodes that run libvirt."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab import images
from lab.accelerator import kvm_works
from lab.cluster.lab import ClusterLab
from lab.cluster.node import Node
from lab.guest import Guest
from lab.host import Host, LabError
from lab.images import debian, guest
from lab.kvm import files, layers
from lab.kvm.host import KvmHost
from lab.progress import show_step

__all__ = ["KvmLab"]


#: Gives QEMU's user /dev/kvm, as udev does on a real host.
KVM = "mknod -m 666 /run/kvm c 10 232 && mount --bind /run/kvm /dev/kvm"
#: Hides a /dev/kvm that does not work: with one that is open to root only, libvirt asks
#: QEMU for its capabilities at each use (5 s).
NO_KVM = (
    "[ ! -e /dev/kvm ] || { install -m 600 /dev/null /run/kvm && mount --bind /run/kvm /dev/kvm; }"
)


class KvmLab(ClusterLab):
    """Use as a context manager; see :class:`lab.cluster.ClusterLab` for the parameters."""

    vmm = "kvm"
    page_every = 0.1
    guests = True

    def __init__(
        self,
        nodes: int = 2,
        *,
        properties: Mapping[str, str] | None = None,
        vesperd_config: str = "",
        timeout: float = 60.0,
    ) -> None:
        super().__init__(
            nodes, properties=properties, vesperd_config=vesperd_config, timeout=timeout
        )
        self.hosts: list[KvmHost] = []
        self.kvm = False  #: the guests use KVM

    def _make_layers(self, directory: Path) -> list[Path]:
        self.kvm = kvm_works("a guest of libvirt", _boots_with_kvm)
        return layers.make_layers(directory, self.domain_xml())

    def _node_files(self, number: int) -> dict[str, str]:
        conf = files.LIBVIRTD_CONF % files.make_host_uuid(number)
        return {**super()._node_files(number), "etc/libvirt/libvirtd.conf": conf}

    def _start_daemons(self) -> None:
        self.hosts = [KvmHost(node) for node in self.nodes]
        what = "KVM lab: starting vesper-ivshmem, libvirtd and vesperd"
        with show_step(what), ThreadPoolExecutor() as all_at_once:
            list(all_at_once.map(self._start_host_daemons, self.hosts))

    def _start_host_daemons(self, host: KvmHost) -> None:
        """Start a host's daemons, in systemd's order."""
        host.run_command(KVM if self.kvm else NO_KVM, check=True)
        host.start_ivshmem_server()
        host.start_libvirtd()
        host.start_vesperd()

    def power_on(self, node: Node) -> Node:
        new = super().power_on(node)
        for host in self.hosts:
            if host.node is node:
                host.node = new
        return new

    def start_services(self, node: Node) -> None:
        self._start_host_daemons(self.find_host(node.name))

    # -- its parts ------------------------------------------------------------

    @property
    def a(self) -> KvmHost:
        return self.hosts[0]

    @property
    def b(self) -> KvmHost:
        return self.hosts[1]

    def find_host(self, name: str) -> KvmHost:
        """Return the host of that name (``node1``)."""
        return self.hosts[self.nodes.index(self.find_node(name))]

    def guest_through(self, *, through: Host | None = None) -> Guest:
        """Return access to ``vm1`` through one of the hosts."""
        return Guest(through or self.a)

    def running_on(self) -> KvmHost | None:
        """Return the host on which vm1's QEMU runs."""
        for host in self.hosts:
            if host.is_running() and "vm1" in host.list_domains():
                return host
        return None

    def domain_xml(self, number: int = 1, **options: Any) -> str:
        """See :func:`lab.kvm.files.make_domain_xml`."""
        return files.make_domain_xml(self.kvm, number, **options)


def _boots_with_kvm() -> None:
    """Boot the guest with KVM.

    :raises LabError: it does not come up.
    """
    kernel = images.kernel_of_tree(debian.LIBVIRT)
    initrd = images.guest_initrd(kernel, images.build_modules(kernel), guest.LIBVIRT)
    with tempfile.NamedTemporaryFile() as console:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-machine", "q35"),
                *("-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-nographic"),
                *("-kernel", kernel.vmlinux, "-initrd", initrd),
                *("-append", files.COMMAND_LINE, "-serial", f"file:{console.name}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            while b"guest: ready" not in Path(console.name).read_bytes():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LabError("the guest does not come up")
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait(10)
