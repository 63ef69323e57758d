# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's toolstack ``xl`` as the OCF agent uses it: bounded, and never wrong.

A domain counts as gone only where ``xl list`` has listed all domains and it
was not among them.  All else (no answer, an error) is
:class:`~vesper_monitor.ocf.toolstack.ToolstackError`: not known.
"""

from __future__ import annotations

import os

from vesper_monitor.domain_state import DomainState
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissing, finished, run, spawn
from vesper_monitor.xl_list import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background, HostMemory, Keeper

__all__ = ["Xl", "parse_list"]

XL = "xl"


def parse_list(text: str) -> dict[str, DomainState]:
    """The states of all domains by name, as ``xl list`` has them.

    Of several domains of one name (one may still be dying) the one that lives
    counts.

    :raises ToolstackError: this is no such list.
    """
    try:
        domains = rows(text)
    except ValueError as error:
        raise ToolstackError(str(error)) from None
    found: dict[str, DomainState] = {}
    for name, _, state in domains:
        if found.get(name, DomainState.DYING) is DomainState.DYING:
            found[name] = state
    return found


class Xl:
    """See :class:`~vesper_monitor.ocf.toolstack.Toolstack`.

    :param root: of the file system in which to look for signs of Xen.
    :param power_button: shut down by it (ACPI), and not by Xen's own way.
    """

    name = XL
    commands: tuple[str, ...] = (XL,)
    look = "xl list"
    # The stock agent allows the same.
    reboot_gap = 5.0
    tends = False
    # The guest must suspend itself, which a paused one does not (libxl_dom_suspend.c, 4.17).
    migrates_paused = False

    def __init__(self, root: str = "/", *, power_button: bool = False) -> None:
        self._root = root
        self._power_button = power_button
        # xenstore keeps a request until the guest reads it; a kernel that boots
        # does not see the power button.
        self.shutdown_again = 5.0 if power_button else float("inf")
        self.keeper: Keeper | None = self
        self.host: HostMemory | None = self

    def absent(self) -> bool:
        """Whether this kernel certainly does not run on Xen.

        Without a sysfs there is no telling: then not.
        """
        if os.path.isdir(os.path.join(self._root, "proc/xen")):
            return False
        try:
            with open(os.path.join(self._root, "sys/hypervisor/type")) as file:
                return file.read().strip() != "xen"
        except OSError:
            return os.path.isdir(os.path.join(self._root, "sys/kernel"))

    def states(self, limit: float) -> dict[str, DomainState]:
        try:
            code, text = run([XL, "list"], limit)
        except ToolstackMissing:
            if self.absent():
                return {}
            raise
        if code == 0:
            return parse_list(text)
        if self.absent():
            return {}
        raise ToolstackError(f"xl list: exit status {code}: {_last_line(text)}")

    def transient_names(self, name: str) -> tuple[str, ...]:
        # tools/xl/xl_migrate.c (4.17): at the target until it has all, and at
        # the source from then on; the third is xm's, which the stock agent knows.
        return f"{name}--incoming", f"{name}--migratedaway", f"migrating-{name}"

    def why(self, name: str) -> str:
        return ""

    def create(self, config: str, name: str, limit: float, memory: int | None = None) -> str:
        more = [] if memory is None else [f"memory={memory}"]
        code, text = run([XL, "create", config, _name(name), *more], limit)
        if code != 0:
            raise ToolstackError(
                f"xl create {config}: exit status {code}: {_last_line(text)}; "
                f"see /var/log/xen/xl-{name}.log"
            )
        return ""

    def check_config(self, config: str, name: str, limit: float) -> str:
        code, text = run([XL, "create", "-n", config, _name(name)], limit)
        return "" if code == 0 else f"xl create -n: {_last_line(text)}"

    def tend(self, name: str, limit: float) -> None:
        pass

    def suspend(self, name: str, limit: float) -> bool:
        return False

    def shutdown(self, name: str) -> Background:
        if self._power_button:
            return spawn([XL, "trigger", name, "power"])
        return spawn([XL, "shutdown", name])

    def destroy(self, name: str, limit: float) -> None:
        self._do(limit, "destroy", name)

    def release_disks(self, name: str, limit: float) -> None:
        from vesper_monitor.ocf import xl_details

        for device in xl_details.disks(self._do(limit, "block-list", name)):
            # Without --force xl would wait for the guest to let go of it.
            self._do(limit, "block-detach", "--force", name, device)

    def rename(self, name: str, new: str, limit: float) -> None:
        self._do(limit, "rename", name, new)

    def dump(self, name: str) -> str:
        return f"Dump it: xl dump-core {name} FILE; then: xl destroy {name}"

    def immovable(self, name: str, limit: float) -> str:
        from vesper_monitor.ocf import xl_details

        listed = self._do(limit, "list", "-l", name)
        return xl_details.immovable(listed, lambda: self._do(limit, "info"))

    def migrate(self, name: str, address: str, limit: float) -> None:
        try:
            finished(spawn([XL, "migrate", name, address]), limit)
        except ToolstackError as error:
            raise ToolstackError(f"{error}; see: ssh {address} xl list") from error

    def arriving(self, name: str) -> bool:
        return False  # then it has another name

    def arrived(self, name: str, limit: float) -> str:
        return ""

    def size(self, name: str, limit: float) -> tuple[int, int] | None:
        return self.sizes(limit).get(name)

    def sizes(self, limit: float) -> dict[str, tuple[int, int]]:
        from vesper_monitor.ocf import xl_details

        return xl_details.sizes(self._do(limit, "list"))

    def memory(self, limit: float) -> tuple[int, int]:
        from vesper_monitor.ocf import xl_details

        return xl_details.memory(self._do(limit, "info"))

    def set_memory(self, name: str, memory: int, limit: float) -> None:
        self._do(limit, "mem-set", name, f"{memory}m")

    def _do(self, limit: float, *words: str) -> str:
        """Run xl; what it said. :raises ToolstackError:"""
        code, text = run([XL, *words], limit)
        if code != 0:
            raise ToolstackError(f"xl {' '.join(words)}: exit status {code}: {_last_line(text)}")
        return text


def _name(name: str) -> str:
    """As a line of an xl.cfg(5)."""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'name="{quoted}"'


def _last_line(text: str) -> str:
    """The line of an error message that says the most: the first error, if marked."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if "error" in line.lower()]
    return (marked or lines or ["no message"])[0 if marked else -1]
