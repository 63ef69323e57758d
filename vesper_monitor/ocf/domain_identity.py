# SPDX-License-Identifier: GPL-2.0-or-later
"""Which domain is a resource's own: one rule for the agents of all hypervisors.

1. The domain that a start or a probe of this resource found last, as long as
   it runs.  It is remembered until the node boots or a stop has succeeded.
2. Else, if it runs here, the domain that a live migration has sent to this node
   for this resource (:mod:`~vesper_monitor.ocf.hand_over`).
3. Else the parameter ``name``, else the name in the configuration file.
4. Else, where nothing of it ever ran here, the resource's id.

A file that cannot be understood, or that names no domain, counts as
unreadable.  One domain belongs to one resource: a start or a probe that finds
it takes it from whatever resource had it before.

The state folder holds one file ``vesper-RESOURCE.domain`` for each resource
that has a domain.  Its lines are name, identifier (Xen: domain number,
libvirt: UUID; may be empty), the key of :func:`~vesper_monitor.ocf.fast_common.config_key`
and the name that parameter or file gave then (may be empty).
"""

from __future__ import annotations

import os

from vesper_monitor.ocf.fast_common import DOMAIN, config_key
from vesper_monitor.ocf.invocation import log_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vesper_monitor.ocf.invocation import OcfInvocation

__all__ = [
    "ConfiguredName",
    "DomainIdentity",
    "KnownDomain",
    "find_configured_name",
    "kept_name",
]

#: Bytes of such a file that are read; a domain's name is far shorter.
MAX_RECORD_BYTES = 4096


class ConfiguredName:
    """The name that parameter or configuration file give the domain.

    :param name: of the domain; None: neither names one.
    :param trouble: why the file names none.
    """

    def __init__(self, name: str | None, trouble: str = "") -> None:
        self.name = name
        self.trouble = trouble


def kept_name(vm: str) -> str:
    """Return the name of a crashed domain that is kept for its dump."""
    return f"{vm}--crashed"


def find_configured_name(
    call: OcfInvocation, config: str, read_name: Callable[[bytes], str]
) -> ConfiguredName:
    """Return the parameter ``name``, else the name in the configuration file.

    A file that has not changed since the domain was found is not read again.

    :param config: name of the parameter with the file's path.
    :param read_name: finds the name in the file's content, or raises ValueError.
    """
    if name := call.read_parameter("name"):
        # It would break the lists that a toolstack makes of it.
        bad = not name.isprintable()
        return ConfiguredName(None, f"parameter name={name!r}") if bad else ConfiguredName(name)
    lines = _read_lines(call.state_file(DOMAIN))
    if len(lines) > 4 and lines[2] == config_key(call.environ) and lines[3]:
        return ConfiguredName(lines[3])
    path = call.read_parameter(config)
    try:
        with open(path, "rb") as file:
            return ConfiguredName(read_name(file.read()))
    except OSError as error:
        return ConfiguredName(None, f"{path}: {error.strerror}")
    except ValueError as error:
        return ConfiguredName(None, f"{path}: {error}")


class KnownDomain:
    """A domain as it was found.

    :param ident: what the toolstack identifies it by; empty: not known.
    """

    def __init__(self, name: str, ident: str = "") -> None:
        self.name = name
        self.ident = ident


class DomainIdentity:
    """Which domain belongs to one resource.

    :param configured: the name in parameter or configuration file.
    """

    def __init__(self, call: OcfInvocation, configured: ConfiguredName) -> None:
        self._call = call
        self.configured = configured
        self._path = call.state_file(DOMAIN)
        self.remembered = _read_record(self._path)
        #: name of the domain that this call is about; a list of the domains may correct it
        self.vm = self.name

    @property
    def name(self) -> str:
        """The name to look for first."""
        if self.remembered is not None:
            return self.remembered.name
        return self.configured_name

    @property
    def configured_name(self) -> str:
        """The name that counts where nothing of this resource runs."""
        if self.configured.name is not None:
            return self.configured.name
        return self.remembered.name if self.remembered is not None else self._call.resource

    @property
    def known(self) -> bool:
        """Whether there is more to go by than the resource's id."""
        return self.remembered is not None or self.configured.name is not None

    def is_foreign(self) -> bool:
        """Whether the domain is only configured here, and belongs to another resource."""
        return self.remembered is None and bool(self.find_owner(self.vm))

    def describe_mismatch(self) -> str:
        """Say that another domain is configured than the one that runs; empty: it is not."""
        runs, wanted = self.remembered, self.configured.name
        if runs is None or wanted is None or wanted == runs.name:
            return ""
        return (
            f"{runs.name} runs, but the configuration names {wanted} now; {wanted} counts from "
            f"the next start of {self._call.resource}"
        )

    def find_owner(self, name: str, ident: str = "") -> str:
        """Return the other resource that a domain belongs to; empty: it is free or ours."""
        for path, other in self._other_records():
            if other.name == name or (ident and other.ident == ident):
                return os.path.basename(path).removeprefix("vesper-").removesuffix(f".{DOMAIN}")
        return ""

    def claim_domain(self, name: str, ident: str) -> None:
        """Remember a domain that a start or a probe of this resource found. Never fails."""
        for path, other in self._other_records():
            if other.name == name or (ident and other.ident == ident):
                log_line(f"{name}: belonged to another resource until now ({path})")
                _unlink_if_there(path)
        self.remembered = KnownDomain(name, ident)
        key = config_key(self._call.environ)
        configured = self.configured.name or ""
        self._call.remember_text(DOMAIN, f"{name}\n{ident}\n{key}\n{configured}\n")

    def forget_domain(self) -> None:
        """Forget the domain: a stop has succeeded. Never fails."""
        self.remembered = None
        self._call.remember_text(DOMAIN, "")

    def adopt_known_domain(self, known: KnownDomain) -> None:
        """Use a domain that vesperd or the cluster named, for this call."""
        self.remembered = known

    def remember_created_domain(self) -> None:
        """Remember the domain that is being created, under its name alone. Never fails.

        A start may fail after its create, and its stop must find what was created.
        """
        self.remembered = KnownDomain(self.vm)
        self._call.remember_text(DOMAIN, f"{self.vm}\n\n\n\n")

    def keep_known_domain(self) -> None:
        """Remember the domain that vesperd or the cluster named, and may forget. Never fails."""
        known = self.remembered
        if known is not None and _read_record(self._path) is None:
            self._call.remember_text(DOMAIN, f"{known.name}\n{known.ident}\n\n\n")

    def _other_records(self) -> Iterator[tuple[str, KnownDomain]]:
        folder = self._call.state_dir
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            return
        for entry in entries:
            path = os.path.join(folder, entry)
            if not entry.startswith("vesper-") or not entry.endswith(f".{DOMAIN}"):
                continue
            if path != self._path and (known := _read_record(path)) is not None:
                yield path, known


def _read_record(path: str) -> KnownDomain | None:
    lines = _read_lines(path)
    # A line's end after the name: what was cut off while it was written is nothing.
    if len(lines) < 2 or not lines[0]:
        return None
    return KnownDomain(lines[0], lines[1])


def _read_lines(path: str) -> list[str]:
    """Return nothing if there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_RECORD_BYTES).decode(errors="surrogateescape").split("\n")
    except OSError:
        return []


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        log_line(f"{path}: {error.strerror}")
