# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's toolstack ``virsh`` as the OCF agent uses it: bounded, and never wrong.

A domain counts as gone only where libvirt has listed all domains and it was
not among them; or, while libvirtd hangs or is restarted, where no QEMU
process of it is there.  So a stop succeeds without libvirtd, too: the
process itself is ended.

This is what a monitor, a probe and a stop need.  The rest is in
:mod:`virsh_start <vesper_monitor.ocf.libvirt.start>`, ``virsh_migrate`` and
``virsh_config``.
"""

from __future__ import annotations

import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import (
    ToolstackError,
    ToolstackHangsError,
    ToolstackMissingError,
    pick_message,
    spawn_command,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background, HostMemory, Keeper

__all__ = ["Options", "Virsh", "parse_stats"]

VIRSH = "virsh"

#: Seconds for a look by libvirt, before the processes are looked at instead.
LOOK_LIMIT_S = 5.0
#: Seconds for which a list of the domains serves for the commands after it.
LIST_AGE_S = 2.0
#: Characters of a UUID in a list.
UUID_LENGTH = 36
#: Seconds until a libvirtd that hung is asked again.
HANG_PAUSE_S = 15.0
#: Seconds for libvirt's own destroy (it waits 15 s for QEMU's end itself).
DESTROY_LIMIT_S = 20.0

#: virDomainState (libvirt-domain.h, 9.0).
STATES = {
    0: DomainState.PAUSED,  # no state: it arrives by migration
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,  # blocked
    3: DomainState.PAUSED,
    4: DomainState.RUNNING,  # asked to shut down
    5: DomainState.GONE,  # shut off
    6: DomainState.CRASHED,
    7: DomainState.PAUSED,  # suspended by the guest itself
}
#: virDomainPausedReason: pauses that do not end by themselves.
STUCK = {
    5: "paused after an I/O error of a disk",
    6: "paused by its watchdog",
    10: "paused after a panic of the guest",
    13: "paused after a migration that failed",
}
#: virDomainPausedReason: it is on its way here (migration, starting up, post-copy).
ARRIVING = (2, 11, 12)
#: virDomainPausedReason: what runs no more, and is not yet destroyed.
SHUT_DOWN = 8
PANICKED = 1  # virDomainCrashedReason


class Options:
    """How libvirt is to be used; the parameters of LibvirtVM that only it knows."""

    def __init__(self) -> None:
        self.uri = "qemu:///system"
        #: the domain's XML file
        self.config = ""
        #: add VESPER's device to a domain that lacks it
        self.add_device = True
        #: ``virsh shutdown --mode``
        self.shutdown_mode = ""
        #: save the running domain's configuration into its file
        self.save_config = False
        #: and tell csync2
        self.sync_config = False
        #: folder of the state files of suspended domains
        self.snapshot = ""
        #: copy-on-write image on this file
        self.backing_file = ""
        #: make that image anew for each start
        self.stateless = False
        #: what to copy into it then
        self.copy_in: list[str] = []
        #: start its storage pools and networks
        self.start_resources = False
        #: of a migration
        self.transport = ""
        self.user = ""
        self.network_suffix = ""
        self.migrate_uri = ""
        self.migrate_options: list[str] = []
        self.migrate_port = 0  #: 0: libvirt's choice
        self.remote_uri = ""
        self.downtime = 0  #: ms; 0: libvirt's default
        self.speed = 0  #: MiB/s; 0: libvirt's default


def parse_stats(text: str) -> dict[str, tuple[int, int]]:
    """State and its reason of each domain by name, as ``virsh domstats --state`` has them.

    :raises ToolstackError: it is not understood, to its last line.
    """
    import re  # costs some ms; a monitor that has vesperd does without

    # A name may hold quotes and lines' ends, but not what stands behind it.
    record = re.compile(
        r"Domain: '((?:(?!\n  state\.).)*)'\n  state\.state=(\d+)\n  state\.reason=(\d+)\n+", re.S
    )
    found: dict[str, tuple[int, int]] = {}
    position = 0
    while position < len(text):
        if (match := record.match(text, position)) is None:
            rest = text[position : position + 120]
            raise ToolstackError(f"virsh domstats: not understood: {rest!r}")
        found[match[1]] = int(match[2]), int(match[3])
        position = match.end()
    return found


class Virsh:
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
    keeper: Keeper | None = None
    host: HostMemory | None = None

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tends = options.save_config
        self.commands: tuple[str, ...] = (VIRSH,)
        if options.backing_file:
            self.commands += ("qemu-img",)
        if options.copy_in:
            self.commands += ("virt-copy-in",)
        if options.sync_config:
            self.commands += ("csync2",)
        #: names of domains that libvirt knows and that do not run
        self.defined: set[str] = set()
        self._why: dict[str, str] = {}
        self._arriving: set[str] = set()  #: names, at the last look
        self._hangs_until = 0.0
        self._away = False  #: at the last look
        #: UUIDs by name, of the last list
        self._uuids: dict[str, str] = {}
        self._listed_at = float("-inf")
        self._pressed: set[str] = set()  #: whose power button was, by QEMU's monitor

    # -- states ---------------------------------------------------------------

    def list_states(self, limit: float) -> dict[str, DomainState]:
        if self._has_hung_lately():
            return self._by_process(ToolstackError("libvirtd does not answer"))
        try:
            stats = parse_stats(self.run_virsh(min(limit, LOOK_LIMIT_S), "domstats", "--state"))
        except ToolstackHangsError as error:
            self._hangs_until = time.monotonic() + HANG_PAUSE_S
            return self._by_process(error)
        except ToolstackError as error:
            # Not by what the error says: that may be in any language.
            if self.driver_name() == "qemu" or isinstance(error, ToolstackMissingError):
                return self._by_process(error)
            from vesper_monitor.ocf.libvirt.virsh_list import list_states

            stats = list_states(self, limit)
        return self._parse_states(stats)

    def _parse_states(self, stats: dict[str, tuple[int, int]]) -> dict[str, DomainState]:
        found: dict[str, DomainState] = {}
        self._away = False
        self._why.clear()
        self._arriving.clear()
        self.defined.clear()
        for name, (number, reason) in stats.items():
            state = STATES.get(number, DomainState.PAUSED)
            if state is DomainState.GONE:
                self.defined.add(name)
                continue
            if number == 3 and reason in STUCK:
                state = DomainState.CRASHED
                self._why[name] = STUCK[reason]
            elif number == 3 and reason == SHUT_DOWN:
                state = DomainState.SHUTDOWN
            elif number == 6 and reason == PANICKED:
                self._why[name] = "crashed (panic of the guest)"
            if number == 0 or (number == 3 and reason in ARRIVING):
                self._arriving.add(name)
            found[name] = state
        return found

    def _by_process(self, error: ToolstackError) -> dict[str, DomainState]:
        """:raises ToolstackError: as given: the processes do not tell."""
        if not self.is_local():
            raise error
        from vesper_monitor.hypervisor import qemu_process

        try:
            running = qemu_process.list_running()
        except FileNotFoundError:
            if isinstance(error, ToolstackMissingError):
                return {}  # no libvirt here, so none of its domains
            raise error from None
        except OSError as trouble:
            raise ToolstackError(f"{error}; and QEMU's processes: {trouble}") from error
        if not self._away:
            log_line(f"{error}; QEMU's processes are looked at instead")
        self._away = True
        self._why.clear()
        self.defined.clear()
        return {name: self._by_monitor(name) for name in running}

    def _by_monitor(self, name: str) -> DomainState:
        """Of one whose QEMU runs."""
        if name in self._pressed:
            from vesper_monitor.ocf.libvirt import qemu

            if qemu.has_shut_down(name):
                return DomainState.SHUTDOWN
        return DomainState.RUNNING

    def _has_hung_lately(self) -> bool:
        """Whether libvirtd did not answer lately."""
        return time.monotonic() < self._hangs_until

    def driver_name(self) -> str:
        """libvirt's driver, by the URI; empty: an alias of a URI."""
        scheme, colon, _ = self.options.uri.partition(":")
        return scheme.partition("+")[0] if colon else ""

    def is_local(self) -> bool:
        """Whether this host's system libvirtd is meant, whose processes are known.

        What comes after ``?`` only says how it is reached.
        """
        scheme, _, rest = self.options.uri.partition("://")
        return scheme in ("qemu", "qemu+unix") and rest.partition("?")[0] == "/system"

    def explain_end(self, name: str) -> str:
        return self._why.get(name, "")

    def transient_names(self, name: str) -> tuple[str, ...]:
        return ()

    def find_ident(self, name: str, limit: float) -> str:
        if time.monotonic() - self._listed_at > LIST_AGE_S or name not in self._uuids:
            lines = self.run_virsh(limit, "list", "--all", "--uuid", "--name").split("\n")
            # A name with a line's end in it is none that anybody asks for.
            pairs = (line.partition(" ") for line in lines if line[UUID_LENGTH:][:1] == " ")
            self._uuids = {known: uuid for uuid, _, known in pairs}
            self._listed_at = time.monotonic()
        if name not in self._uuids:
            raise ToolstackError(f"{name}: libvirt lists no such domain any more")
        return self._uuids[name]

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
        if self.options.save_config and not self._has_hung_lately():
            from vesper_monitor.ocf.libvirt import save_config

            save_config.save_config(self, name, limit)

    # -- stop -----------------------------------------------------------------

    def save_domain(self, name: str, limit: float) -> bool:
        if not self.options.snapshot or limit <= 0 or self._has_hung_lately():
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

    def destroy_domain(self, name: str, limit: float) -> None:
        end = time.monotonic() + limit
        trouble = ToolstackError("libvirtd does not answer")
        if not self._has_hung_lately():
            try:
                self.do_to(name, min(limit / 2, DESTROY_LIMIT_S), "destroy")
                return
            except ToolstackError as error:
                trouble = error
        if not self.is_local():
            raise trouble
        from vesper_monitor.ocf.libvirt import qemu

        qemu.kill_process(name, end, trouble)

    # -- migration ----------------------------------------------------------------

    def explain_immovable(self, name: str, limit: float) -> str:
        return ""  # libvirt itself says so before anything is sent

    def migrate_domain(self, name: str, address: str, limit: float) -> None:
        from vesper_monitor.ocf.libvirt import migrate

        migrate.migrate_domain(self, name, address, limit)

    def is_arriving(self, name: str) -> bool:
        return name in self._arriving

    def finish_arrival(self, name: str, limit: float) -> str:
        from vesper_monitor.ocf.libvirt import migrate

        return migrate.finish_arrival(self, name, limit)

    # -- running virsh --------------------------------------------------------------

    def build_command(self, *words: str, uri: str = "") -> list[str]:
        return [VIRSH, "--quiet", f"--connect={uri or self.options.uri}", *words]

    def do_to(self, name: str, limit: float, command: str, *words: str) -> str:
        """Run a virsh command on the domain of exactly that name, by its UUID.

        virsh takes a name of digits for a domain's number, and some names for
        options.

        :param words: what comes after the domain.
        :raises ToolstackError: as :meth:`run_virsh`, or there is no such domain.
        """
        return self.run_virsh(limit, command, self.find_ident(name, limit), *words)

    def run_virsh(
        self, limit: float, *words: str, uri: str = "", keep: tuple[int, ...] = ()
    ) -> str:
        """Run virsh; what it said.

        :param uri: of another libvirtd than this host's.
        :param keep: descriptors that it inherits.
        :raises ToolstackHangsError: it is not done in time.
        :raises ToolstackError: it failed.
        """
        job = spawn_command(self.build_command(*words, uri=uri), keep=keep)
        try:
            code, text = job.wait_for_exit(limit), job.read_output()
        finally:
            job.close()
        if code is None:
            raise ToolstackHangsError(
                f"virsh {words[0]} did not finish within {max(limit, 0):.0f} s; check libvirtd"
            )
        if code != 0:
            raise ToolstackError(f"virsh {words[0]}: {pick_message(text).removeprefix('error: ')}")
        return text
