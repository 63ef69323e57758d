# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab as a whole: its hosts, brought up and taken down together."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from lab import images
from lab.guest import Guest
from lab.host import Host, LabError
from lab.progress import show_step
from lab.xen import disk, project, saved
from lab.xen.accelerator import Accelerator, choose_accelerator
from lab.xen.host import HOSTS, XenHost, find_free_port

__all__ = ["STATE", "XenLab"]

#: Run-time state of all labs of this machine.
STATE = Path("/run/vesper-lab")

#: What crm_mon says when the cluster is ready.
CLUSTER_IS_READY = (
    "crm_mon -1 2>/dev/null | grep -q 'Online: \\[ host-a host-b \\]' && "
    "crm_mon -1 2>/dev/null | grep -q 'Current DC: host'"
)


class XenLab:
    """Emulated hosts, and what may be done to them.

    Use one of the class methods to get one; leave the ``with`` block (or call
    :meth:`close`) and nothing remains.
    """

    vmm = "xen"
    #: not more often: each request costs an emulated host some milliseconds
    page_every = 0.5

    def __init__(self, hosts: list[XenHost], state: Path, stack: ExitStack) -> None:
        self.hosts = hosts
        self.state = state
        self._stack = stack

    def __enter__(self) -> XenLab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the lab down, if this object has brought it up."""
        self._stack.close()

    # ------------------------------------------------------------ getting one

    @classmethod
    def _start_hosts(
        cls,
        count: int,
        state: Path | None,
        *,
        cluster: bool,
        accelerator: Accelerator,
        drive: dict[str, str],
        incoming: dict[str, Path] | None = None,
    ) -> XenLab:
        directory = state or STATE / f"xen-{os.getpid()}"
        _clean_remains()
        with ExitStack() as stack:
            if (directory / "lab.json").exists():
                raise LabError(f"{directory}: there is a lab already; take it down first")
            directory.mkdir(parents=True, exist_ok=True)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            hosts = [XenHost(me, directory, find_free_port()) for me in HOSTS[:count]]
            for host in hosts:
                stack.callback(host.close)
                host.start_machine(
                    drive=drive[host.identity.key],
                    accelerator=accelerator,
                    cluster=cluster,
                    incoming=incoming[host.identity.key] if incoming else None,
                )
            (directory / "lab.json").write_text(
                json.dumps({"pid": os.getpid(), "ports": [host.port for host in hosts]})
            )
            return cls(hosts, directory, stack.pop_all())

    @classmethod
    def boot_lab(
        cls,
        hosts: int = 2,
        *,
        cluster: bool = True,
        state: Path | None = None,
        overlays: Path | None = None,
        accelerator: Accelerator | None = None,
        timeout: float = 420.0,
    ) -> XenLab:
        """Boot one host or both.

        :param cluster: start Corosync and Pacemaker, and wait for them.
        :param state: directory for sockets and logs (default: one of its own).
        :param overlays: folder to keep the disks' changes in; default: nowhere.
        :param timeout: seconds for everything.
        """
        kernel = images.kernel_of_tree()
        base = disk.build_host_disk(kernel)
        disk.build_dom0_initrd(kernel)
        drive = {host.key: f"file={base},format=raw,snapshot=on" for host in HOSTS}
        if overlays:
            drive = saved.make_overlays(base, overlays)
        accelerator = accelerator or choose_accelerator(_try_accelerator)
        deadline = time.monotonic() + timeout
        lab = cls._start_hosts(hosts, state, cluster=cluster, accelerator=accelerator, drive=drive)
        try:
            with show_step(f"booting {hosts} host(s) with Xen"):
                for host in lab.hosts:
                    host.wait_ready(deadline - time.monotonic())
                for host in lab.hosts:
                    host.set_host_time()
            if cluster:
                with show_step("waiting for Pacemaker"):
                    lab.wait_cluster(deadline - time.monotonic())
        except BaseException:
            lab.close()
            raise
        return lab

    @classmethod
    def resume_lab(cls, *, state: Path | None = None, install: bool = True) -> XenLab:
        """Two hosts with a ready cluster, in seconds; built first where there is none.

        :param install: put the present project tree into the hosts.
        """
        accelerator = choose_host_accelerator()
        files = saved.load_saved_cluster(
            lambda folder: cls.boot_lab(cluster=True, overlays=folder), accelerator
        )
        with show_step("resuming the saved cluster"):
            lab = cls._start_hosts(
                2,
                state,
                cluster=True,
                accelerator=accelerator,
                drive={
                    key: f"file={path},format=qcow2,snapshot=on" for key, path in files.disk.items()
                },
                incoming=files.memory,
            )
            try:
                for host in lab.hosts:
                    with host.open_qmp() as qmp:
                        qmp.wait_status("paused", "postmigrate", timeout=60)
                for host in lab.hosts:
                    host.resume_machine()
                for host in lab.hosts:
                    host.wait_ready(60)
                    host.set_host_time()
                lab.wait_cluster(60)
            except BaseException:
                lab.close()
                raise
        try:
            if install:
                lab.install_project()
        except BaseException:
            lab.close()
            raise
        return lab

    @classmethod
    def attach_to_lab(cls, state: Path) -> XenLab:
        """A lab that another process has brought up.

        :raises LabError: there is none.
        """
        try:
            about = json.loads((state / "lab.json").read_text())
        except FileNotFoundError as error:
            raise LabError("the lab is not up; 'python3 -m lab xen up' brings it up") from error
        hosts = [XenHost(me, state, port) for me, port in zip(HOSTS, about["ports"], strict=False)]
        return cls(hosts, state, ExitStack())

    # ------------------------------------------------------------ its parts

    @property
    def a(self) -> XenHost:
        return self.hosts[0]

    @property
    def b(self) -> XenHost:
        return self.hosts[1]

    def find_host(self, name: str) -> XenHost:
        """By name (``host-a``) or key (``a``)."""
        for host in self.hosts:
            if name in (host.name, host.identity.key):
                return host
        raise LabError(f"no host {name}; there are {', '.join(h.name for h in self.hosts)}")

    def guest_through(self, *, through: Host | None = None) -> Guest:
        """The lab's hand in ``vm1``, reached through one of the hosts."""
        return Guest(through or self.a)

    # ------------------------------------------------------------ doing things

    def install_project(self) -> None:
        """Put the present project tree, its probes and the guest into all hosts.

        vesperd is (re)started.
        """
        with show_step("installing the project in the hosts"):
            bundle = project.make_bundle()
            with ThreadPoolExecutor() as both:
                # list(): an error in one of them is raised here.
                list(both.map(lambda host: project.install_bundle(host, bundle), self.hosts))

    def wait_cluster(self, timeout: float) -> None:
        """Wait until both hosts are online and there is a DC."""
        self.a.wait_for_command(CLUSTER_IS_READY, timeout=timeout)

    def running_on(self) -> XenHost | None:
        """The host on which vm1's domain exists."""
        for host in self.hosts:
            if host.run_command("xl list vm1", timeout=30).rc == 0:
                return host
        return None


def _clean_remains() -> None:
    """Remove what labs have left whose process was killed; their machines died with it."""
    for path in STATE.glob("xen-*"):
        if not Path("/proc", path.name.removeprefix("xen-")).exists():
            shutil.rmtree(path, ignore_errors=True)


def _try_accelerator(accelerator: Accelerator) -> None:
    with XenLab.boot_lab(1, cluster=False, timeout=25, accelerator=accelerator):
        pass


def choose_host_accelerator() -> Accelerator:
    """What the hosts of this machine run with."""
    return choose_accelerator(_try_accelerator)
