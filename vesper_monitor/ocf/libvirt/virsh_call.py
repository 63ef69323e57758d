# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs ``virsh``: each command with a time limit, on exactly one domain.

virsh takes a name of digits for a domain's number, and some names for
options.  So each command gets the UUID, out of a list that was just read.
"""

from __future__ import annotations

import time

from vesper_monitor.ocf.toolstack import (
    ToolstackError,
    ToolstackHangsError,
    pick_message,
    spawn_command,
)

__all__ = ["VIRSH", "Options", "VirshCall"]

VIRSH = "virsh"

#: Seconds for which a list of the domains serves for the commands after it.
LIST_AGE_S = 2.0
#: Characters of a UUID in a list.
UUID_CHARS = 36
#: Seconds until a libvirtd that hung is asked again.
HANG_PAUSE_S = 15.0


class Options:
    """How libvirt is to be used: the parameters that only LibvirtVM has."""

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


class VirshCall:
    """libvirt's client, on one connection.

    :param options: which libvirtd, and how it is to be used.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._hangs_until = 0.0
        #: UUIDs by name, of the last list
        self._uuids: dict[str, str] = {}
        self._listed_at = float("-inf")

    def note_hang(self) -> None:
        """Note that libvirtd hung: it is not asked for a while."""
        self._hangs_until = time.monotonic() + HANG_PAUSE_S

    def has_hung_lately(self) -> bool:
        """Whether libvirtd did not answer lately."""
        return time.monotonic() < self._hangs_until

    def driver_name(self) -> str:
        """Return libvirt's driver by the URI; empty: the URI is an alias."""
        scheme, colon, _ = self.options.uri.partition(":")
        return scheme.partition("+")[0] if colon else ""

    def is_local(self) -> bool:
        """Whether this host's system libvirtd is meant, whose processes are known.

        What comes after ``?`` only says how it is reached.
        """
        scheme, _, rest = self.options.uri.partition("://")
        return scheme in ("qemu", "qemu+unix") and rest.partition("?")[0] == "/system"

    def find_ident(self, name: str, limit: float) -> str:
        if time.monotonic() - self._listed_at > LIST_AGE_S or name not in self._uuids:
            lines = self.run_virsh(limit, "list", "--all", "--uuid", "--name").split("\n")
            # A name with a line's end in it is none that anybody asks for.
            pairs = (line.partition(" ") for line in lines if line[UUID_CHARS:][:1] == " ")
            self._uuids = {known: uuid for uuid, _, known in pairs}
            self._listed_at = time.monotonic()
        if name not in self._uuids:
            raise ToolstackError(f"{name}: libvirt lists no such domain any more")
        return self._uuids[name]

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
        """Run virsh, and return its output.

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
