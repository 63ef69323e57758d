# SPDX-License-Identifier: GPL-2.0-or-later
"""How a libvirt domain is started: as the stock agent does, with VESPER's device.

The domain is created out of its file and not defined, so that libvirt forgets
it when it ends.  The file itself stays as it is: what libvirt gets is a copy
in memory.
"""

from __future__ import annotations

import os
import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.atomic_file import in_memory
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.libvirt import domain_xml, ivshmem_server, vtpm
from vesper_monitor.ocf.libvirt.undefine import take_uuid, undefine_domain
from vesper_monitor.ocf.toolstack import (
    ToolstackError,
    ToolstackHangsError,
    pick_message,
    run_command,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

    from vesper_monitor.ocf.libvirt.virsh_call import Options
    from vesper_monitor.ocf.libvirt.virsh_states import VirshStates

__all__ = ["check_config", "create_domain", "save_domain", "start_resources"]

#: Seconds for a command beside the start itself.
LOOK_LIMIT_S = 20.0
#: Seconds that another try to start the domain needs, at least.
RETRY_LEAST_S = 2.0
#: Seconds between two tries to reach a libvirtd that is being restarted.
AWAY_PAUSE_S = 1.0
#: What virsh says of that. (QEMU's own "failed to connect" is another one.)
AWAY = ("failed to connect socket", "end of file", "cannot recv", "cannot write", "reset by peer")


def create_domain(virsh: VirshStates, config: str, name: str, limit: float) -> str:
    """Start a domain: see :class:`~vesper_monitor.ocf.toolstack.Toolstack`."""
    end = time.monotonic() + limit
    options = virsh.options
    if options.snapshot and os.path.exists(state := _state_file(options, name)):
        return _restore_domain(virsh, name, state, limit)
    data = _read_config(config)
    root = _parse_config(config, data)
    domain_xml.set_name(root, name)
    if doubt := vtpm.find_doubt(root):
        log_line(f"{name}: {doubt}")
    vtpm.keep_state(root)
    defined = name in virsh.defined and not undefine_domain(virsh, config, name, data, root)
    if defined:
        take_uuid(virsh, name, root)
    if options.start_resources:
        start_resources(virsh, root)
    if options.backing_file:
        _make_image(options, config, end)
    note = _create_with_device(virsh, root, name, end)
    if not defined and vtpm.list_backends(root):
        _check_tpm(virsh, name)
    return note


def _create_with_device(virsh: VirshStates, root: Element, name: str, end: float) -> str:
    """Start the domain with VESPER's device; where that fails, once without it.

    :returns: why it has no device.
    :raises ToolstackError: it does not run.
    """
    path = ivshmem_server.qemu_socket()
    lacks = domain_xml.find_device(root, path) is None
    note = prepare_device(virsh, root)
    device = domain_xml.find_device(root, path)
    if lacks and device is not None:
        log_line(f"{name}: gets VESPER's device, which its file lacks (add_device)")
    try:
        _create_from_xml(virsh, root, end)
    except ToolstackHangsError:
        raise
    except ToolstackError as error:
        # What libvirt says of it may be anything, in any language.
        if device is None or not _is_gone(virsh, name) or end - time.monotonic() < RETRY_LEAST_S:
            raise
        log_line(f"{name}: {error}; trying again without VESPER's device")
        domain_xml.remove_device(root, device)
        note = f"it started only without VESPER's device: {error}"
        _create_from_xml(virsh, root, end)
    return note


def _is_gone(virsh: VirshStates, name: str) -> bool:
    """Whether a domain certainly is not there."""
    try:
        return name not in virsh.list_states(LOOK_LIMIT_S)
    except ToolstackError as error:
        log_line(f"{name}: {error}")
        return False


def prepare_device(virsh: VirshStates, root: Element) -> str:
    """Give the domain VESPER's device, or take it away where the server would not answer.

    :returns: why it has none; empty: it has one.
    """
    path = ivshmem_server.qemu_socket()
    device = domain_xml.find_device(root, path)
    name = root.findtext("name")
    if device is None and not virsh.options.add_device:
        return "its XML has no VESPER device, and add_device=false"
    if device is not None and device.find("address") is None:
        log_line(
            f"{name}: VESPER's device in its XML has no <address>: other devices' addresses may "
            "change when it is left out"
        )
    if trouble := ivshmem_server.find_trouble():
        if device is not None:
            # QEMU would not start, or wait for the server without a limit.
            domain_xml.remove_device(root, device)
        return trouble
    if device is not None:
        if not domain_xml.is_migratable_with(root, device):
            log_line(f"{name}: VESPER's device in its XML is no master: a migration will unplug it")
        return ""
    return domain_xml.add_device(root, path)


def check_config(virsh: VirshStates, config: str, limit: float) -> str:
    """Return libvirt's error for a configuration file; empty: none.

    VESPER's device is not added: the domain starts without it, too.

    :raises ToolstackError: not known.
    """
    try:
        data = _read_config(config)
        root = _parse_config(config, data)
        if doubt := vtpm.find_doubt(root):
            log_line(f"{config}: {doubt}")
        if virsh.driver_name() != "qemu" or domain_xml.passes_through_pci(root):
            # libvirtd 9.0 refuses host devices in domxml-to-native, or crashes.
            log_line(
                f"{config}: cannot tell whether {virsh.options.uri} accepts it before it starts"
            )
            return ""
        in_memory(
            domain_xml.serialize_domain(root).encode(),
            lambda path, fd: virsh.run_virsh(
                limit, "domxml-to-native", "qemu-argv", path, keep=(fd,)
            ),
        )
    except ToolstackHangsError:
        raise
    except ToolstackError as error:
        if any(word in str(error).lower() for word in AWAY):
            raise
        return str(error)
    return ""


def save_domain(virsh: VirshStates, name: str, limit: float) -> bool:
    """Save the domain's memory, and end it.

    :returns: whether that is done.
    """
    state = _state_file(virsh.options, name)
    log_line(f"{name}: saving it to {state}")
    try:
        virsh.do_to(name, limit, "save", state)
    except ToolstackError as error:
        log_line(f"{name}: not saved, so it is shut down: {error}")
        return False
    return True


def start_resources(virsh: VirshStates, root: Element, uri: str = "") -> None:
    """Start the storage pools and networks that a domain uses.

    :param uri: of another libvirtd than this host's.
    :raises ToolstackError: one was not started.
    """
    for kind, word in (("pool", "pool"), ("network", "net")):
        names = domain_xml.list_needed(root, kind)
        if not names:
            continue
        active = virsh.run_virsh(LOOK_LIMIT_S, f"{word}-list", "--name", uri=uri).splitlines()
        for name in names:
            if name not in [line.strip() for line in active]:
                virsh.run_virsh(LOOK_LIMIT_S, f"{word}-start", name, uri=uri)
                log_line(f"{kind} {name}: started")
            elif kind == "pool":
                virsh.run_virsh(LOOK_LIMIT_S, "pool-refresh", name, uri=uri)


def _create_from_xml(virsh: VirshStates, root: Element, end: float) -> None:
    """:raises ToolstackError: it does not run."""
    name = root.findtext("name") or ""
    again = False
    while True:
        try:
            in_memory(
                domain_xml.serialize_domain(root).encode(),
                lambda path, fd: virsh.run_virsh(
                    end - time.monotonic(), "create", path, keep=(fd,)
                ),
            )
            return
        except ToolstackError as error:
            away = any(word in str(error).lower() for word in AWAY)
            if (
                again
                and not away
                and virsh.list_states(LOOK_LIMIT_S).get(name) is DomainState.RUNNING
            ):
                return  # libvirtd had done it before it went away
            if not away or time.monotonic() + AWAY_PAUSE_S + 1.0 > end:
                raise
            log_line(f"{name}: {error}; trying again")
            again = True
            time.sleep(AWAY_PAUSE_S)


def _restore_domain(virsh: VirshStates, name: str, state: str, limit: float) -> str:
    """:raises ToolstackError: it does not run."""
    log_line(f"{name}: restoring it from {state}")
    virsh.run_virsh(limit, "restore", state)
    try:
        os.unlink(state)
    except OSError as error:
        # It would be restored once more, with a disk that changed since.
        virsh.destroy_domain(name, LOOK_LIMIT_S)
        raise ToolstackError(f"{state} cannot be removed: {error.strerror}") from error
    return ""


def _check_tpm(virsh: VirshStates, name: str) -> None:
    """Log if libvirt is too old to keep the TPM's state. Never fails."""
    try:
        live = domain_xml.parse_domain(virsh.do_to(name, LOOK_LIMIT_S, "dumpxml"))
    except (ToolstackError, ValueError) as error:
        log_line(f"{name}: cannot tell whether the state of its vTPM is kept: {error}")
        return
    if vtpm.is_lost_at_end(live):
        log_line(
            f"{name}: the state of its vTPM is lost when it ends: its XML says so, or libvirt is "
            "older than 7.0"
        )


def _make_image(options: Options, config: str, end: float) -> None:
    """:raises ToolstackError: there is no image."""
    folder, name = os.path.split(config)
    image = os.path.join(folder, name.partition(".")[0] + ".qcow2")
    backing = options.backing_file
    if not options.stateless and os.path.exists(image) and os.path.getsize(image) > 0:
        return
    _run_until(end, "qemu-img", "create", "-q", "-f", "qcow2", "-F",
               _detect_image_format(backing, end),
         "-b", backing, image)  # fmt: skip
    log_line(f"{image}: made on {backing}")
    if options.copy_in:
        _run_until(end, "virt-copy-in", "-a", image, *options.copy_in, "/")


def _detect_image_format(image: str, end: float) -> str:
    """Return the format, which QEMU 6.1 and later require: guessing is a security risk."""
    for line in _run_until(end, "qemu-img", "info", "-U", image).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "file format":
            return value.strip()
    raise ToolstackError(f"qemu-img info {image}: not understood")


def _run_until(end: float, *command: str) -> str:
    code, said = run_command(list(command), end - time.monotonic())
    if code != 0:
        raise ToolstackError(f"{' '.join(command)}: exit status {code}: {pick_message(said)}")
    return said


def _state_file(options: Options, name: str) -> str:
    return os.path.join(options.snapshot, f"{name}.state")


def _read_config(config: str) -> bytes:
    """:raises ToolstackError:"""
    try:
        with open(config, "rb") as file:
            return file.read()
    except OSError as error:
        raise ToolstackError(f"{config}: {error.strerror}") from error


def _parse_config(config: str, data: bytes) -> Element:
    """:raises ToolstackError:"""
    try:
        return domain_xml.parse_domain(data)
    except ValueError as error:
        raise ToolstackError(f"{config}: {error}") from None
