# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's toolstack ``xl`` as the OCF agents use it.

A domain counts as gone only where ``xl list`` has listed all domains and it
was not among them.  All else (no answer, an error) is
:class:`~vesper_monitor.ocf.toolstack.ToolstackError`: unknown.
"""

from __future__ import annotations

import os
import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.xl_list import parse_rows
from vesper_monitor.ocf.toolstack import (
    ToolstackError,
    ToolstackMissingError,
    finish_migration,
    run_command,
    spawn_command,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background, CrashedDomainKeeper, HostMemory

__all__ = ["Xl", "parse_list"]

XL = "xl"
#: Seconds for which a list of the domains serves for the commands after it.
LIST_AGE_S = 2.0
#: Seconds for such a list.
LIST_LIMIT_S = 10.0


def parse_list(text: str) -> dict[str, tuple[DomainState, str]]:
    """Return state and number of each domain by name, as ``xl list`` has them.

    Of several domains of one name (one may still be dying) the one that lives
    counts.

    :raises ToolstackError: this is no such list, or not all of it.
    """
    try:
        domains = parse_rows(text)
    except ValueError as error:
        raise ToolstackError(str(error)) from None
    found: dict[str, tuple[DomainState, str]] = {}
    for name, number, state in domains:
        if name not in found or found[name][0] is DomainState.DYING:
            found[name] = state, number
    return found


class Xl:
    """See :class:`~vesper_monitor.ocf.toolstack.Toolstack`.

    :param root: of the file system in which to look for signs of Xen.
    :param power_button: shut down by it (ACPI), and not by Xen's own way.
    """

    name = XL
    ident_field = "domid"
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
        #: domain numbers by name, of the last list
        self._numbers: dict[str, str] = {}
        self._listed_at = float("-inf")
        #: of all lists
        self._last_numbers: dict[str, str] = {}
        self.keeper: CrashedDomainKeeper | None = self
        self.host: HostMemory | None = self

    def is_absent(self) -> bool:
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

    def list_states(self, limit: float) -> dict[str, DomainState]:
        try:
            code, text = run_command([XL, "list"], limit)
        except ToolstackMissingError:
            if self.is_absent():
                return {}
            raise
        if code == 0:
            listed = parse_list(text)
            # The host itself is no VM, even if a configuration names it.
            listed = {name: found for name, found in listed.items() if found[1] != "0"}
            self._numbers = {name: number for name, (_, number) in listed.items()}
            self._last_numbers |= self._numbers
            self._listed_at = time.monotonic()
            return {name: state for name, (state, _) in listed.items()}
        if self.is_absent():
            return {}
        raise ToolstackError(f"xl list: exit status {code}: {_last_line(text)}")

    def find_ident(self, name: str, limit: float) -> str:
        if time.monotonic() - self._listed_at > LIST_AGE_S:
            self.list_states(limit)
        if name not in self._numbers:
            raise ToolstackError(f"{name}: xl lists no such domain any more")
        return self._numbers[name]

    def find_name(self, ident: str) -> str:
        return next((name for name, number in self._numbers.items() if number == ident), "")

    def brings_back(self, name: str, ident: str) -> bool:
        from vesper_monitor.ocf.xen import xl_details

        number = self._last_numbers.get(name, ident)
        folder = os.path.join(self._root, "var/log/xen")
        # One that has arrived by migration was created under the other name.
        logs = (f"xl-{known}.log" for known in (name, f"{name}--incoming") if "/" not in known)
        return any(xl_details.is_restarted_by_xl(os.path.join(folder, log), number) for log in logs)

    def transient_names(self, name: str) -> tuple[str, ...]:
        # tools/xl/xl_migrate.c (4.17): at the target until it has all, and at
        # the source from then on; the third is xm's, which the stock agent knows.
        return f"{name}--incoming", f"{name}--migratedaway", f"migrating-{name}"

    def explain_end(self, name: str) -> str:
        return ""

    def create_domain(self, config: str, name: str, limit: float, memory: int | None = None) -> str:
        more = [] if memory is None else [f"memory={memory}"]
        code, text = run_command([XL, "create", config, _name_line(name), *more], limit)
        if code != 0:
            raise ToolstackError(
                f"xl create {config}: exit status {code}: {_last_line(text)}; "
                f"see /var/log/xen/xl-{name}.log"
            )
        return ""

    def check_config(self, config: str, name: str, limit: float) -> str:
        code, text = run_command([XL, "create", "-n", config, _name_line(name)], limit)
        return "" if code == 0 else f"xl create -n: {_last_line(text)}"

    def tend_domain(self, name: str, limit: float) -> None:
        pass

    def save_domain(self, name: str, limit: float) -> bool:
        return False

    def request_shutdown(self, name: str) -> Background:
        number = self.find_ident(name, LIST_LIMIT_S)
        if self._power_button:
            return spawn_command([XL, "trigger", number, "power"])
        return spawn_command([XL, "shutdown", number])

    def destroy_domain(self, name: str, limit: float) -> None:
        number = self.find_ident(name, limit)
        job = spawn_command([XL, "destroy", number])
        code = job.wait_for_exit(limit)
        if code is None:
            # Not ended: what it has begun it may still finish, beside another try.
            raise ToolstackError(
                f"xl destroy {number} ({name}) did not finish within {max(limit, 0):.0f} s"
            )
        said = job.read_output()
        job.close()
        if code != 0:
            raise ToolstackError(
                f"xl destroy {number} ({name}): exit status {code}: {_last_line(said)}"
            )

    def release_disks(self, name: str, limit: float) -> None:
        from vesper_monitor.ocf.xen import xl_details

        number = self.find_ident(name, limit)
        for device in xl_details.parse_disks(self._run_xl(limit, "block-list", number)):
            # Without --force xl would wait for the guest to let go of it.
            self._run_xl(limit, "block-detach", "--force", number, device)

    def rename_domain(self, name: str, new: str, limit: float) -> None:
        self._do_to(name, limit, "rename", new)

    def dump_core(self, name: str) -> str:
        return f"Dump it: xl dump-core {name} FILE; then: xl destroy {name}"

    def explain_immovable(self, name: str, limit: float) -> str:
        from vesper_monitor.ocf.xen import xl_details

        listed = self._run_xl(limit, "list", "-l", self.find_ident(name, limit))
        return xl_details.explain_immovable(listed, lambda: self._run_xl(limit, "info"))

    def migrate_domain(self, name: str, address: str, limit: float) -> None:
        try:
            number = self.find_ident(name, LIST_LIMIT_S)
            finish_migration(spawn_command([XL, "migrate", number, address]), limit)
        except ToolstackError as error:
            raise ToolstackError(f"{error}; see: ssh {address} xl list") from error

    def is_arriving(self, name: str) -> bool:
        return False  # then it has another name

    def finish_arrival(self, name: str, limit: float) -> str:
        return ""

    def read_size(self, name: str, limit: float) -> tuple[int, int] | None:
        return self.list_sizes(limit).get(name)

    def list_sizes(self, limit: float) -> dict[str, tuple[int, int]]:
        from vesper_monitor.ocf.xen import xl_details

        return xl_details.parse_sizes(self._run_xl(limit, "list"))

    def read_host_memory(self, limit: float) -> tuple[int, int]:
        from vesper_monitor.ocf.xen import xl_details

        return xl_details.parse_memory(self._run_xl(limit, "info"))

    def read_max_memory(self, config: str) -> int | None:
        from vesper_monitor.ocf.xen.xl_config import read_number

        try:
            with open(config, "rb") as file:
                return read_number(file.read(), "maxmem")
        except (OSError, ValueError):
            return None

    def set_memory(self, name: str, memory: int, limit: float) -> None:
        self._do_to(name, limit, "mem-set", f"{memory}m")

    def _do_to(self, name: str, limit: float, command: str, *words: str) -> str:
        """Run an xl command on the domain of exactly that name, by its number.

        xl takes a name of digits for a domain number (libxl_domain_qualifier_to_domid()
        in tools/libs/light/libxl_utils.c, 4.17).

        :raises ToolstackError: it failed, or there is no such domain.
        """
        return self._run_xl(limit, command, self.find_ident(name, limit), *words)

    def _run_xl(self, limit: float, *words: str) -> str:
        """Run xl, and return its output.

        :raises ToolstackError:
        """
        code, text = run_command([XL, *words], limit)
        if code != 0:
            raise ToolstackError(f"xl {' '.join(words)}: exit status {code}: {_last_line(text)}")
        return text


def _name_line(name: str) -> str:
    """Return the name as a line of an xl.cfg(5)."""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'name="{quoted}"'


def _last_line(text: str) -> str:
    """Return the most useful line of an error message: the first error, if marked."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if "error" in line.lower()]
    return (marked or lines or ["no message"])[0 if marked else -1]
