# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's toolstack ``virsh`` as the OCF agents' actions use it.

A stop succeeds without libvirtd, too: the domain's process itself is ended.
What only one action needs is in a file of its own beside this one (``start``,
``migrate``, ``save_config``, ``qemu``), read when it is needed: a monitor must
start fast.
"""

from __future__ import annotations

from vesper_monitor.ocf.libvirt.virsh_call import VIRSH, Options
from vesper_monitor.ocf.libvirt.virsh_states import LOOK_LIMIT_S, VirshStates
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackHangsError, spawn_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background, CrashedDomainKeeper, HostMemory

__all__ = ["Virsh"]


class Virsh(VirshStates):
    """See :class:`~vesper_monitor.ocf.toolstack.Toolstack`."""

    name = VIRSH
    ident_field = "uuid"
    look = "virsh list --all"
    # A guest that reboots keeps its domain.
    reboot_gap = 0.0
    # A kernel that boots does not see the power button.
    shutdown_again = 5.0
    # It stays paused, at the target "by the user".
    migrates_paused = True
    keeper: CrashedDomainKeeper | None = None
    host: HostMemory | None = None

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.tends = options.save_config
        self.commands: tuple[str, ...] = (VIRSH,)
        if options.backing_file:
            self.commands += ("qemu-img",)
        if options.copy_in:
            self.commands += ("virt-copy-in",)
        if options.sync_config:
            self.commands += ("csync2",)

    # -- which domain ---------------------------------------------------------

    def transient_names(self, name: str) -> tuple[str, ...]:
        return ()

    def find_name(self, ident: str) -> str:
        return ""  # a domain that runs keeps its name

    def brings_back(self, name: str, ident: str) -> bool:
        from vesper_monitor.ocf.libvirt import crash

        return crash.is_restarted(self, name)

    def read_size(self, name: str, limit: float) -> tuple[int, int] | None:
        known = {}
        for line in self.do_to(name, limit, "dominfo").splitlines():
            key, _, value = line.partition(":")
            known[key] = value.split()
        try:
            return int(known["Max memory"][0]) // 1024, int(known["CPU(s)"][0])
        except (LookupError, ValueError):
            raise ToolstackError(f"virsh dominfo {name}: not understood") from None

    # -- start, and while it runs -------------------------------------------------

    def create_domain(self, config: str, name: str, limit: float, memory: int | None = None) -> str:
        from vesper_monitor.ocf.libvirt import start

        return start.create_domain(self, config, name, limit)

    def check_config(self, config: str, name: str, limit: float) -> str:
        from vesper_monitor.ocf.libvirt import start

        return start.check_config(self, config, limit)

    def tend_domain(self, name: str, limit: float) -> None:
        if self.options.save_config:
            from vesper_monitor.ocf.libvirt import save_config

            save_config.save_config(self, name, limit)

    # -- stop -----------------------------------------------------------------

    def save_domain(self, name: str, limit: float) -> bool:
        if not self.options.snapshot or limit <= 0 or self.has_hung_lately():
            return False
        from vesper_monitor.ocf.libvirt import start

        return start.save_domain(self, name, limit)

    def request_shutdown(self, name: str) -> Background | None:
        mode = self.options.shutdown_mode
        if not self._away or not self.is_local():
            uuid = self.find_ident(name, LOOK_LIMIT_S)
            return spawn_command(
                self.build_command("shutdown", uuid, *(["--mode", mode] if mode else []))
            )
        if mode and "acpi" not in mode.split(","):
            raise ToolstackHangsError(f"libvirtd does not answer, which shutdown_mode={mode} needs")
        from vesper_monitor.ocf.libvirt import qemu

        qemu.press_power_button(name)
        self._pressed.add(name)
        return None

    # -- migration ----------------------------------------------------------------

    def explain_immovable(self, name: str, limit: float) -> str:
        return ""  # libvirt itself says so before anything is sent

    def migrate_domain(self, name: str, address: str, limit: float) -> None:
        from vesper_monitor.ocf.libvirt import migrate

        migrate.migrate_domain(self, name, address, limit)

    def finish_arrival(self, name: str, limit: float) -> str:
        from vesper_monitor.ocf.libvirt import migrate

        return migrate.finish_arrival(self, name, limit)
