# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration by libvirt, and what VESPER's device needs for it.

A device that is its memory's master goes with the domain.  Any other (it was
plugged in while the domain ran, or the administrator's XML does not say so)
keeps QEMU from migrating: it is unplugged, which the guest must agree to, and
at the target a new one is plugged in.
"""

from __future__ import annotations

import time

from vesper_monitor.ocf.atomic_file import in_memory
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.libvirt import domain_xml, ivshmem_server, save_config
from vesper_monitor.ocf.libvirt.unplug import read_live_xml, unplug_device
from vesper_monitor.ocf.toolstack import ToolstackError, finish_migration, spawn_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

    from vesper_monitor.ocf.libvirt.virsh_call import Options
    from vesper_monitor.ocf.libvirt.virsh_states import VirshStates
    from vesper_monitor.ocf.toolstack import Background

__all__ = ["Route", "finish_arrival", "migrate_domain"]

#: Seconds for one command beside the migration itself.
LOOK_LIMIT_S = 10.0
#: Seconds to abort a migration that is not done in time.
ABORT_LIMIT_S = 10.0
#: Seconds between two tries to set the downtime: libvirt takes it when the
#: migration is under way.
DOWNTIME_PAUSE_S = 0.5


class Route:
    """Where the domain and its memory go, by the stock agent's rules.

    :param node: the target's name in the cluster.
    """

    def __init__(self, options: Options, node: str) -> None:
        host = _add_suffix(node, options.network_suffix)
        #: how libvirt's client reaches the target's libvirtd
        self.remote = _with_host(options.remote_uri, node)
        if not self.remote:
            user = f"{options.user}@" if options.user else ""
            self.remote = _remote_uri(options.uri, options.transport, user + _bracket_host(host))
        else:
            host = node
        words = iter(options.migrate_options)
        given = options.migrate_uri
        #: more options for virsh
        self.options: list[str] = []
        for word in words:
            if word.startswith("--migrateuri="):
                given = given or word.partition("=")[2]
            elif word == "--migrateuri":
                value = next(words, "")
                given = given or value
            else:
                self.options.append(_with_host(word, host))
        #: how the memory goes; empty: libvirt's choice
        self.memory = _with_host(given, host)
        if not given and options.network_suffix:
            scheme = options.uri.partition(":")[0].partition("+")[0]
            target = _bracket_host(_add_suffix(node, options.network_suffix))
            if scheme == "xen":
                self.memory = target
            elif scheme == "qemu":
                port = f":{options.migrate_port}" if options.migrate_port else ""
                self.memory = f"tcp://{target}{port}"
            else:
                log_line(
                    f"migration_network_suffix: not used with {scheme}; libvirt chooses the network"
                )


def _add_suffix(node: str, suffix: str) -> str:
    """``node1.example.org`` and ``-mig``: ``node1-mig.example.org``."""
    name, dot, domain = node.partition(".")
    return name + suffix + dot + domain


def _bracket_host(host: str) -> str:
    """Return a host as a URI has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _with_host(text: str, host: str) -> str:
    """Put a host in the place of each ``%n``."""
    if "://" not in text:
        return text.replace("%n", host)
    return text.replace("[%n]", "%n").replace("%n", _bracket_host(host))


def _remote_uri(uri: str, transport: str, host: str) -> str:
    """Return the URI of the same hypervisor on another host: ``qemu+TRANSPORT://HOST/system``.

    :param host: with the user's name before it, if there is one.
    """
    scheme, _, rest = uri.partition("://")
    here, _, path = rest.partition("/")
    driver, _, old = scheme.partition("+")
    # What is left of [fd00::1]:16509 without the address.
    port = here.rpartition("]")[2].rpartition(":")[2] if ":" in here.rpartition("]")[2] else ""
    via = transport or old
    return f"{driver}{'+' + via if via else ''}://{host}{':' + port if port else ''}/{path}"


def migrate_domain(virsh: VirshStates, name: str, node: str, limit: float) -> None:
    """See :class:`~vesper_monitor.ocf.toolstack.Toolstack`.

    :param node: the target's name in the cluster.
    """
    end = time.monotonic() + limit
    options = virsh.options
    route = Route(options, node)
    if options.save_config:
        save_config.save_config(virsh, name, LOOK_LIMIT_S)
    root = read_live_xml(virsh, name, LOOK_LIMIT_S)
    device = domain_xml.find_device(root, ivshmem_server.qemu_socket())
    if options.start_resources:
        from vesper_monitor.ocf.libvirt.start import start_resources

        start_resources(virsh, root, route.remote)
    unplugged = device is not None and not domain_xml.is_migratable_with(root, device)
    if device is not None and unplugged:
        log_line(f"{name}: VESPER's device is no master and cannot be migrated; unplugging it")
        unplug_device(virsh, name, root, device)
    try:
        try:
            _send_domain(virsh, name, route, end)
        except ToolstackError as error:
            if device is None or unplugged or not _names_device(error, device):
                raise
            if name not in virsh.list_states(LOOK_LIMIT_S):
                raise  # it is not here any more
            log_line(f"{name}: {error}; unplugging VESPER's device and trying again")
            try:
                unplug_device(virsh, name, root, device)
            except ToolstackError as clings:
                raise ToolstackError(
                    f"{node} cannot serve VESPER's device (does vesper-ivshmem run there?), "
                    f"and {clings}"
                ) from error
            unplugged = True
            _send_domain(virsh, name, route, end)
    except ToolstackError:
        if unplugged and (trouble := _plug_device(virsh, name)):
            log_line(f"{name}: is no longer watched: {trouble}")
        raise


def _names_device(error: ToolstackError, device: Element) -> bool:
    """Whether an error is about the device: by names that no translation changes.

    QEMU at the target says which socket it cannot connect to, or which device it does
    not know.
    """
    names = ("shmem", ivshmem_server.socket_folder(), domain_xml.device_alias(device))
    return any(name and name in str(error) for name in names)


def finish_arrival(virsh: VirshStates, name: str, limit: float) -> str:
    """Plug the device in where it is missing. Never fails.

    :returns: why it is still missing.
    """
    if virsh.options.save_config:
        save_config.save_config(virsh, name, limit)
    if not virsh.options.add_device:
        return ""
    try:
        root = read_live_xml(virsh, name, limit)
        if root.get("type") not in ("kvm", "qemu"):
            return f"a domain of type {root.get('type')} cannot have an ivshmem device"
        if domain_xml.find_device(root, ivshmem_server.qemu_socket()) is not None:
            return ""
    except ToolstackError as error:
        log_line(f"{name}: cannot tell whether it has VESPER's device: {error}")
        return ""
    return _plug_device(virsh, name)


def _send_domain(virsh: VirshStates, name: str, route: Route, end: float) -> None:
    """:raises ToolstackError: it did not go."""
    options = virsh.options
    if options.speed:
        virsh.do_to(name, LOOK_LIMIT_S, "migrate-setspeed", str(options.speed))
    memory = [route.memory] if route.memory else []
    uuid = virsh.find_ident(name, LOOK_LIMIT_S)
    command = virsh.build_command("migrate", "--live", *route.options, uuid, route.remote, *memory)
    log_line(f"{name}: {' '.join(command)}")
    job = spawn_command(command)
    abort = end - min(ABORT_LIMIT_S, (end - time.monotonic()) / 4)
    if options.downtime:
        _set_downtime(virsh, name, uuid, job, abort)
    if job.wait_for_exit(abort - time.monotonic()) is None:
        # It would go on, and the domain would be at the target after all.
        try:
            virsh.run_virsh((end - time.monotonic()) / 2, "domjobabort", uuid)
        except ToolstackError as error:
            log_line(f"{name}: {error}")
    finish_migration(job, end - time.monotonic())


def _set_downtime(virsh: VirshStates, name: str, uuid: str, job: Background, end: float) -> None:
    words = ("migrate-setmaxdowntime", uuid, str(virsh.options.downtime))
    trouble: ToolstackError | None = None
    while job.wait_for_exit(DOWNTIME_PAUSE_S) is None and time.monotonic() < end:
        try:
            virsh.run_virsh(LOOK_LIMIT_S, *words)
            return
        except ToolstackError as error:
            trouble = error
    if trouble is not None:
        log_line(f"{name}: the downtime is not set: {trouble}")


def _plug_device(virsh: VirshStates, name: str) -> str:
    """:returns: why the domain has no device now; empty: it has."""
    if trouble := ivshmem_server.find_trouble():
        return trouble
    try:
        uuid = virsh.find_ident(name, LOOK_LIMIT_S)
        in_memory(
            domain_xml.hot_plug(ivshmem_server.qemu_socket()).encode(),
            lambda path, fd: virsh.run_virsh(
                LOOK_LIMIT_S, "attach-device", uuid, path, "--live", keep=(fd,)
            ),
        )
    except ToolstackError as error:
        return str(error)
    log_line(f"{name}: VESPER's device is plugged in")
    return ""
