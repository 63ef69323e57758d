# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of a hypervisor's toolstack to the OCF agents, and running its commands.

Every call has a time limit.  A command's output goes to memory and not
through a pipe: what it leaves running in the background (``xl create`` does)
may hold a pipe open.
"""

from __future__ import annotations

import os
import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.util.errors import VesperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from typing import Protocol

    class Toolstack(Protocol):
        """One hypervisor's toolstack."""

        #: the command, for messages
        name: str
        #: which field of vesperd's answers holds a domain's identifier
        ident_field: str
        #: commands that a node must have for a start
        commands: tuple[str, ...]
        #: what an operator sees the domains with
        look: str
        #: seconds in which a domain that is gone may come back: it reboots
        reboot_gap: float
        #: seconds after which a guest is asked to shut down once more, which has
        #: not heard it if it was booting; infinite: the word waits for it
        shutdown_again: float
        #: whether :meth:`tend_domain` does anything
        tends: bool
        #: whether it can migrate a domain that is paused
        migrates_paused: bool
        #: keeps a crashed domain; None: this toolstack cannot
        keeper: CrashedDomainKeeper | None
        #: changes the domains' memory; None: this toolstack cannot
        host: HostMemory | None

        def list_states(self, limit: float) -> dict[str, DomainState]:
            """Return the states of all domains by name; of two with one name that of the live one.

            :param limit: seconds.
            :raises ToolstackError: unknown. No domain is missing in what is returned.
            """

        def find_ident(self, name: str, limit: float) -> str:
            """Return what a domain is identified by: its number on Xen, its UUID on libvirt.

            Out of a list that was just read, by the exact name.

            :raises ToolstackError: not known, or there is no such domain.
            """

        def find_name(self, ident: str) -> str:
            """Return the name of the domain with that identifier in the last list.

            :returns: empty: it was not listed, or the toolstack's names do not
                change while a domain runs.
            """

        def brings_back(self, name: str, ident: str) -> bool:
            """Whether the toolstack itself starts a domain again that has ended or crashed.

            :param ident: of the domain, if it was never listed here; may be empty.
            """

        def explain_end(self, name: str) -> str:
            """Return the reason of a domain's state at the last look; empty: unknown."""

        def transient_names(self, name: str) -> tuple[str, ...]:
            """Return the names of a domain while it is migrated."""

        def create_domain(
            self, config: str, name: str, limit: float, memory: int | None = None
        ) -> str:
            """Start a domain by its configuration file.

            :param memory: MiB, in place of what the file says.
            :returns: why faults inside will not be seen; empty: nothing is known.
            :raises ToolstackError: it did not start.
            """

        def check_config(self, config: str, name: str, limit: float) -> str:
            """Return the error in a configuration file; empty: there is none.

            :raises ToolstackError: not known.
            """

        def tend_domain(self, name: str, limit: float) -> None:
            """Do what a running domain needs at each monitor. Never fails."""

        def save_domain(self, name: str, limit: float) -> bool:
            """Save the domain instead of shutting it down, where that is wanted.

            :returns: whether it is saved, and gone.
            """

        def request_shutdown(self, name: str) -> Background | None:
            """Ask the guest to shut down; does not wait for that.

            :returns: the command that asks it; None: it is asked.
            :raises ToolstackHangsError: there is no way to ask it now.
            """

        def destroy_domain(self, name: str, limit: float) -> None:
            """End the domain.

            :raises ToolstackError: refused, or not done in time.
            """

        def explain_immovable(self, name: str, limit: float) -> str:
            """Return why the domain cannot be migrated live; empty: no reason is known.

            :raises ToolstackError: not known.
            """

        def migrate_domain(self, name: str, address: str, limit: float) -> None:
            """Migrate it live to another host.

            :raises ToolstackError: it did not go, or not in time.
            """

        def is_arriving(self, name: str) -> bool:
            """Whether a domain that the last look has shown as paused is still on its way here."""

        def finish_arrival(self, name: str, limit: float) -> str:
            """Complete a domain that arrived from another host.

            :returns: as :meth:`create_domain`.
            """

        def read_size(self, name: str, limit: float) -> tuple[int, int] | None:
            """Return memory (MiB) and number of virtual CPUs of a domain; None: it does not exist.

            :raises ToolstackError: not known.
            """

    class CrashedDomainKeeper(Protocol):
        """Keeps a crashed domain for its dump."""

        def release_disks(self, name: str, limit: float) -> None:
            """Take its disks away from a domain that does not run any more.

            :raises ToolstackError: not all of them, or not in time.
            """

        def rename_domain(self, name: str, new: str, limit: float) -> None:
            """:raises ToolstackError: refused, or not done in time."""

        def dump_core(self, name: str) -> str:
            """Return how an operator dumps and removes it, for a message."""

    class HostMemory(Protocol):
        """The memory of this host and of the domains on it."""

        def list_sizes(self, limit: float) -> dict[str, tuple[int, int]]:
            """Memory (MiB) and virtual CPUs of all domains by name, but the host's own.

            :raises ToolstackError: not known.
            """

        def read_host_memory(self, limit: float) -> tuple[int, int]:
            """Return MiB of this host's memory: all, and free.

            :raises ToolstackError: not known.
            """

        def read_max_memory(self, config: str) -> int | None:
            """Return the most MiB that a configuration file allows; None: it has no limit."""

        def set_memory(self, name: str, memory: int, limit: float) -> None:
            """Change a domain's memory; the guest may take a while.

            :param memory: MiB.
            :raises ToolstackError: refused, or not done in time.
            """


__all__ = [
    "Background",
    "ToolstackError",
    "ToolstackHangsError",
    "ToolstackMissingError",
    "finish_migration",
    "pick_message",
    "run_command",
    "spawn_command",
]

#: Bytes of a command's output that are read at once.
READ_BYTES = 1 << 20
#: Where a toolstack is looked for if the caller has no PATH.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ToolstackError(VesperError):
    """The toolstack refused, or did not answer in time; the text says which."""


class ToolstackHangsError(ToolstackError):
    """The toolstack's daemon does not answer."""


class ToolstackMissingError(ToolstackError):
    """A command is not installed on this node."""


class Background:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[bytes], command: list[str], output: int) -> None:
        self._process = process
        self._command = command
        self._output = output

    def wait_for_exit(self, limit: float) -> int | None:
        """Return its exit status; None if it still runs after ``limit`` seconds."""
        end = time.monotonic() + limit
        pause = 0.005
        while (code := self._process.poll()) is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.1)
        return code

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_output(self) -> str:
        """Return all its output so far."""
        pieces = []
        offset = 0
        while piece := os.pread(self._output, READ_BYTES, offset):
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces).decode(errors="surrogateescape")

    def close(self) -> None:
        """Kill it if it still runs. A process that hangs in the kernel is left behind."""
        if self._process.poll() is None:
            self._process.kill()
            self.wait_for_exit(1.0)
        os.close(self._output)


def spawn_command(
    command: list[str],
    hint: str = "is the hypervisor's toolstack installed?",
    keep: tuple[int, ...] = (),
    environ: Mapping[str, str] | None = None,
) -> Background:
    """Start a command.

    :param hint: what to do if there is none.
    :param keep: descriptors that it inherits.
    :param environ: instead of this process's.
    :raises ToolstackMissingError: there is no such command.
    """
    import subprocess  # costs 10 ms; a monitor that has vesperd does without

    # glibc obeys LANGUAGE in every locale but plain "C" (gettext(3)).
    given = os.environ if environ is None else environ
    environ = {**given, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
    environ["PATH"] = environ.get("PATH") or PATH
    output = os.memfd_create(command[0])
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            pass_fds=keep,
        )
    except OSError as error:
        os.close(output)
        kind = ToolstackMissingError if isinstance(error, FileNotFoundError) else ToolstackError
        raise kind(f"{command[0]} cannot be run on this node: {error.strerror}; {hint}") from error
    return Background(process, command, output)


def run_command(command: list[str], limit: float) -> tuple[int, str]:
    """Run a command, and return its exit status and its output.

    :param limit: seconds; then it is killed.
    :raises ToolstackError: not done in time.
    :raises ToolstackMissingError: there is no such command.
    """
    job = spawn_command(command)
    try:
        code = job.wait_for_exit(limit)
        if code is None:
            # Without options: a value may be long, and an exit reason is short.
            shown = " ".join(word for word in command[:2] if not word.startswith("-"))
            raise ToolstackError(
                f"{shown} did not finish within {max(limit, 0):.0f} s; check its daemon"
            )
        return code, job.read_output()
    finally:
        job.close()


def finish_migration(job: Background, limit: float) -> str:
    """Wait for a migration's end, close it, and return its output.

    :raises ToolstackError: it failed, or takes longer.
    """
    try:
        code = job.wait_for_exit(limit)
        said = job.read_output()
    finally:
        job.close()
    if code is None:
        raise ToolstackError("not done within the operation's timeout; give migrate_to more time")
    if code != 0:
        raise ToolstackError(f"exit status {code}: {pick_message(said)}")
    return said


def pick_message(output: str) -> str:
    """Return the most useful line of a command's output: the last error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    return (errors or lines or ["no message"])[-1]
