# SPDX-License-Identifier: GPL-2.0-or-later
"""The toolstacks' own lists of domains, for ``fallback_actions.py``; the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess

from fallback_call import Call, UnknownStateError

__all__ = ["DYING", "RUNS", "Domain", "Libvirt", "Toolstack", "Xen"]

#: Of one look at the domains.
LIST_LIMIT_S = 10.0
#: For the cluster to say what was sent to this node.
CLUSTER_LIMIT_S = 5.0
#: On Xen a guest that reboots is gone for a moment.
REBOOT_GAP_S = 5.0
#: Where xl notes what it does at a domain's end, and how much of that is read.
XL_LOGS = "/var/log/xen"
TAIL_BYTES = 16384

RUNS, ENDED, DYING = "runs", "has ended", "is dying"


class Domain:
    """One domain of a toolstack's list.

    :param number: Xen's; libvirt has none here.
    """

    def __init__(self, name: str, number: str, state: str) -> None:
        self.name = name
        self.number = number
        self.state = state


class Toolstack:
    """A hypervisor's own command."""

    config_parameter = ""
    reboot_gap_s = 0.0
    #: share of a stop's timeout that is for the shutdown
    shutdown_share = 1.0
    #: of the resource's name in the configuration, which may have blanks around it
    name_pattern = re.compile(rb"(?!)")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.remembered_name, self.ident = call.remembered()
        self.configured_name = call.parameter("name") or self._read_config_name()
        self.name = self.remembered_name or self.configured_name
        self._found = False  # the name is settled
        self._asked_cluster = False

    def own_domains(self) -> list[Domain]:
        """Return the resource's domain under all names that it may have, what runs first.

        It is the remembered one, as long as that is there; else what is configured.

        :raises UnknownStateError:
        """
        domains = self.list_domains()
        if not self.name:
            if not domains:
                return []
            raise UnknownStateError("the domain's name is not known")
        own = self._find_named(domains)
        if not own and not (self.remembered_name or self._found or self._asked_cluster):
            own = self._find_sent(domains)
        if not own and self.name == self.remembered_name and not self._found:
            self.check_renamed(domains)
            if any(domain.name == self.configured_name for domain in domains):
                self.name = self.configured_name
                own = self._find_named(domains)
        self._found = self._found or bool(own)
        return own

    def _find_sent(self, domains: list[Domain]) -> list[Domain]:
        """Return the domain that a live migration sent to this node for the resource.

        This node's file may name another one.  See vesper_monitor/ocf/hand_over.py.
        """
        self._asked_cluster = True
        call = self.call
        words = ["--private", "--name", f"vesper-carried-{call.resource}", "--node", call.node]
        try:
            code, text, _ = self.run(["attrd_updater", *words, "--query"], CLUSTER_LIMIT_S)
            found = re.search(r'value="([A-Za-z0-9_=-]+)"', text) if code == 0 else None
            if found is None:
                return []
            sent = json.loads(base64.urlsafe_b64decode(found[1]))
            name, ident = sent["vm"], sent["ident"]
            own = [domain for domain in domains if domain.name == name]
            if not own or call.find_owner(name) or (ident and self.find_address(own[0]) != ident):
                return []
        except (OSError, UnknownStateError, ValueError, LookupError, TypeError):
            return []
        self.name = name
        return own

    def check_owner(self) -> None:
        """:raises UnknownStateError: the domain is another resource's."""
        if self.name != self.remembered_name and (owner := self.call.find_owner(self.name)):
            raise UnknownStateError(f"{self.name} belongs to resource {owner}")

    def _find_named(self, domains: list[Domain]) -> list[Domain]:
        names = (self.name, *self.transient_names())
        own = [domain for domain in domains if domain.name in names]
        return sorted(own, key=lambda domain: (domain.state != RUNS, domain.name != self.name))

    def list_domains(self) -> list[Domain]:
        """Return all domains but those that are only defined.

        :raises UnknownStateError:
        """
        raise NotImplementedError

    def transient_names(self) -> tuple[str, ...]:
        """Names of the domain while it is migrated."""
        return ()

    def check_renamed(self, domains: list[Domain]) -> None:
        """:raises UnknownStateError: it has another name now."""

    def brings_back(self, domain: Domain) -> bool:
        """Whether the toolstack itself starts it again, now that it is not listed any more."""
        return False

    def find_address(self, domain: Domain) -> str:
        """Return what stands for a domain in the toolstack's commands.

        :raises UnknownStateError: nothing does, or it hangs.
        """
        raise NotImplementedError

    def shutdown_command(self, address: str) -> list[str]:
        raise NotImplementedError

    def destroy_command(self, address: str) -> list[str]:
        raise NotImplementedError

    def run(self, command: list[str], limit: float) -> tuple[int, str, str]:
        """Run a command: exit status, what it printed, and the last line of its errors.

        :raises FileNotFoundError: it is not installed.
        :raises UnknownStateError: it takes longer.
        """
        environ = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
        environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        # In memory: something that it leaves behind may hold a pipe open.
        printed, errors = os.memfd_create("printed"), os.memfd_create("errors")
        try:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=printed, stderr=errors, env=environ
                )
            except FileNotFoundError:
                raise
            except OSError as error:
                raise UnknownStateError(f"{command[0]}: {error.strerror}") from error
            try:
                code = process.wait(min(limit, self.call.left()))
            except subprocess.TimeoutExpired:
                process.kill()
                _reap(process)
                raise UnknownStateError(f"{command[0]} hangs") from None
            lines = _read_all(errors).split("\n")
            return code, _read_all(printed), next((s for s in reversed(lines) if s.strip()), "")
        finally:
            os.close(printed)
            os.close(errors)

    def _read_config_name(self) -> str:
        try:
            with open(self.call.parameter(self.config_parameter), "rb") as file:
                found = self.name_pattern.findall(file.read())
        except (OSError, ValueError):
            return ""
        return found[0].decode(errors="surrogateescape").strip() if len(found) == 1 else ""


class Xen(Toolstack):
    config_parameter = "xmfile"
    reboot_gap_s = REBOOT_GAP_S
    shutdown_share = 2 / 3
    name_pattern = re.compile(
        rb"""(?m)(?:^|;)[ \t]*name[ \t]*\+?=[ \t]*(?:["']([^"'\\\n]+)["'](?=[ \t]*[#;\n]))?"""
    )

    def list_domains(self) -> list[Domain]:
        try:
            code, text, said = self.run(["xl", "list"], LIST_LIMIT_S)
        except FileNotFoundError:
            code, text, said = 127, "", "xl is not installed"
        if code != 0:
            if _is_without_xen():
                return []
            raise UnknownStateError(f"xl list: {said}")
        header, _, rest = text.partition("\n")
        if not header.startswith("Name ") or not text.endswith("\n"):
            raise UnknownStateError("xl list: not understood")
        domains = [_parse_xl_line(line) for line in rest.split("\n")[:-1]]
        return [domain for domain in domains if domain.number != "0"]

    def transient_names(self) -> tuple[str, ...]:
        name = self.name
        return f"{name}--incoming", f"{name}--migratedaway", f"migrating-{name}"

    def check_renamed(self, domains: list[Domain]) -> None:
        # One with that end was put aside for its dump.
        for domain in domains:
            if self.ident == domain.number and domain.name != f"{self.name}--crashed":
                raise UnknownStateError(f"domain {self.ident} is {domain.name} now")

    def brings_back(self, domain: Domain) -> bool:
        # As vesper_monitor/ocf/xen/xl_details.py has it.
        shut = rf"^Domain {domain.number} has shut down, .*\nAction for shutdown .* is (\S+)$"
        noted = []
        for name in (self.name, f"{self.name}--incoming"):
            try:
                with open(f"{XL_LOGS}/xl-{name.replace('/', '_')}.log", "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                    noted += re.findall(shut, file.read().decode(errors="replace"), re.M)[-1:]
            except (OSError, ValueError):
                continue
        return any(action.endswith("restart") for action in noted)

    def find_address(self, domain: Domain) -> str:
        return domain.number

    def shutdown_command(self, address: str) -> list[str]:
        if self.call.switched_on("shutdown_acpi"):
            return ["xl", "trigger", address, "power"]
        return ["xl", "shutdown", address]

    def destroy_command(self, address: str) -> list[str]:
        return ["xl", "destroy", address]


class Libvirt(Toolstack):
    config_parameter = "config"
    name_pattern = re.compile(rb"<domain\b[^<>]*>\s*<name>([^<>&]+)</name>")

    def list_domains(self) -> list[Domain]:
        try:
            code, text, said = self.run(self.command("domstats", "--state"), LIST_LIMIT_S)
            if code == 0:
                return _parse_domstats(text)
            # Some drivers have no domstats.
            code, text, _ = self.run(self.command("list", "--name"), LIST_LIMIT_S)
        except FileNotFoundError:
            # A node without libvirt has none of its domains.
            run_folder = os.environ.get("VESPER_QEMU_RUN") or "/run/libvirt/qemu"
            if self.uri().startswith("qemu:///") and not os.path.isdir(run_folder):
                return []
            raise UnknownStateError("virsh is not installed") from None
        if code != 0:
            raise UnknownStateError(f"virsh: {said.removeprefix('error: ')}")
        return [Domain(name, "", RUNS) for name in text.split("\n") if name]

    def find_address(self, domain: Domain) -> str:
        code, text, _ = self.run(self.command("list", "--all", "--uuid", "--name"), LIST_LIMIT_S)
        for line in text.split("\n") if code == 0 else []:
            uuid, _, name = line.strip().partition(" ")
            if name.strip() == domain.name and _is_uuid(uuid):
                return uuid
        # virsh takes these for an option, a number or a UUID.
        name = domain.name
        if name.isdecimal() or name.startswith("-") or _is_uuid(name):
            raise UnknownStateError(f"virsh does not say which domain {name} is")
        return name

    def shutdown_command(self, address: str) -> list[str]:
        mode = self.call.parameter("shutdown_mode")
        more = ["--mode", mode] if re.fullmatch("[a-z,]+", mode) else []
        return self.command("shutdown", address, *more)

    def destroy_command(self, address: str) -> list[str]:
        return self.command("destroy", address)

    def command(self, *words: str) -> list[str]:
        return ["virsh", "--quiet", f"--connect={self.uri()}", *words]

    def uri(self) -> str:
        given = self.call.parameter("hypervisor")
        for variable in ("VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"):
            given = given or os.environ.get(variable, "")
        if not given:
            try:
                with open("/etc/libvirt/libvirt.conf", errors="replace") as file:
                    found = re.search(r"""(?m)^\s*uri_default\s*=\s*["']([^"'\n]+)""", file.read())
                given = found[1] if found else ""
            except OSError:
                pass
        return given or "qemu:///system"


def _parse_xl_line(line: str) -> Domain:
    """See vesper_monitor/hypervisor/xl_list.py for the flags. :raises UnknownStateError:"""
    columns = line.rsplit(None, 5)
    flags = columns[4] if len(columns) == 6 else ""
    if len(flags) != 6 or not columns[1].isdecimal():
        raise UnknownStateError(f"xl list: not understood: {line[:60]}")
    state = DYING if flags[5] == "d" else ENDED if flags[4] in "cw" else RUNS
    if flags[3] == "s" and flags[4] != "s" and state == RUNS:
        state = ENDED  # "s": it is being saved or migrated
    return Domain(columns[0].strip(), columns[1], state)


def _parse_domstats(text: str) -> list[Domain]:
    """Return each domain that is not shut off.

    :raises UnknownStateError:
    """
    found = []
    parts = text.split("Domain: '")
    for part in parts[1:]:
        match = re.fullmatch(r"(.*)'\n\s*state\.state=(\d+)\n\s*state\.reason=(\d+)\n\s*", part)
        if match is None:
            raise UnknownStateError(f"virsh domstats: not understood: {part[:60]!r}")
        name, state, reason = match[1], int(match[2]), int(match[3])
        if state == 5:
            continue
        # As vesper_monitor/ocf/libvirt/virsh.py has it: crashed, or paused for good.
        ended = state == 6 or (state == 3 and reason in (5, 6, 8, 10, 13))
        found.append(Domain(name, "", ENDED if ended else RUNS))
    if parts[0].strip():
        raise UnknownStateError(f"virsh domstats: not understood: {parts[0][:60]!r}")
    return found


def _is_uuid(text: str) -> bool:
    return re.fullmatch("[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", text) is not None


def _is_without_xen() -> bool:
    """Whether this kernel certainly does not run on Xen."""
    if os.path.isdir("/proc/xen"):
        return False
    try:
        with open("/sys/hypervisor/type") as file:
            return file.read().strip() != "xen"
    except OSError:
        return os.path.isdir("/sys/kernel")


def _read_all(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read().decode(errors="surrogateescape")


def _reap(process: subprocess.Popen[bytes]) -> None:
    """One that hangs in the kernel is left behind."""
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        pass
