# SPDX-License-Identifier: GPL-2.0-or-later
"""How a libvirt domain is started: as the stock agent does, with VESPER's device.

The domain is created out of its file and not defined, so that libvirt forgets
it when it ends.  The file itself stays as it is: what libvirt gets is a copy
in memory.
"""

from __future__ import annotations

import os
import time

from vesper_monitor.domain_state import DomainState
from vesper_monitor.ocf import domain_xml, holder
from vesper_monitor.ocf.call import log
from vesper_monitor.ocf.files import in_memory, replace
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackHangs, run, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from vesper_monitor.ocf.virsh import Options, Virsh

__all__ = ["check", "create", "start_resources", "suspend"]

#: Seconds for a command beside the start itself.
LIMIT = 20.0
#: Seconds between two tries to reach a libvirtd that is being restarted.
AWAY_PAUSE = 1.0
#: What virsh says of that. (QEMU's own "failed to connect" is another one.)
AWAY = ("failed to connect socket", "end of file", "cannot recv", "cannot write", "reset by peer")


def create(virsh: Virsh, config: str, name: str, limit: float) -> str:
    """Start a domain: see :class:`~vesper_monitor.ocf.toolstack.Toolstack`."""
    end = time.monotonic() + limit
    options = virsh.options
    if options.snapshot and os.path.exists(state := _state_file(options, name)):
        return _restore(virsh, name, state, limit)
    text = _read(config)
    root = _parse(config, text)
    if name in virsh.defined:
        _undefine(virsh, config, name, text)
    if options.start_resources:
        start_resources(virsh, root)
    if options.backing_file:
        _make_image(options, config, end)
    path = holder.qemu_socket()
    lacks = domain_xml.device(root, path) is None
    note = prepare(virsh, root)
    device = domain_xml.device(root, path)
    if lacks and device is not None:
        log(f"{name}: gets VESPER's device, which its file lacks (add_device)")
    try:
        _create(virsh, root, end)
    except ToolstackError as error:
        if device is None or not domain_xml.blames_device(str(error)):
            raise
        log(f"{name}: {error}; trying again without VESPER's device")
        domain_xml.remove(root, device)
        note = str(error)
        _create(virsh, root, end)
    return note


def prepare(virsh: Virsh, root: Element) -> str:
    """Give the domain VESPER's device, or take it away where nobody would serve it.

    :returns: why it has none.
    """
    path = holder.qemu_socket()
    device = domain_xml.device(root, path)
    name = root.findtext("name")
    if device is None and not virsh.options.add_device:
        return "its XML has no VESPER device, and add_device=false"
    if trouble := holder.trouble():
        if device is not None:
            # QEMU would not start, or wait for it for ever.
            domain_xml.remove(root, device)
        return trouble
    if device is not None:
        if not domain_xml.masters(root, device):
            log(f"{name}: VESPER's device in its XML is no master: unplugged for a migration")
        return ""
    return domain_xml.add(root, path)


def check(virsh: Virsh, config: str, limit: float) -> str:
    """What libvirt has against a configuration file; empty: nothing.

    :raises ToolstackError: not known.
    """
    try:
        root = _parse(config, _read(config))
        prepare(virsh, root)
        in_memory(
            domain_xml.text(root),
            lambda path, fd: virsh.do(
                limit, "domxml-to-native", "qemu-argv", path, keep=(fd,)
            ),
        )
    except ToolstackHangs:
        raise
    except ToolstackError as error:
        if "not supported" in str(error) or any(word in str(error).lower() for word in AWAY):
            raise
        return str(error)
    return ""


def suspend(virsh: Virsh, name: str, limit: float) -> bool:
    """Save the domain's memory, and end it. :returns: whether that is done."""
    state = _state_file(virsh.options, name)
    log(f"{name}: saving it to {state}")
    try:
        virsh.do(limit, "save", name, state)
    except ToolstackError as error:
        log(f"{name}: not saved, it is to shut down: {error}")
        return False
    return True


def start_resources(virsh: Virsh, root: Element, uri: str = "") -> None:
    """Start the storage pools and networks that a domain uses.

    :param uri: of another libvirtd than this host's.
    :raises ToolstackError: one was not started.
    """
    for kind, word in (("pool", "pool"), ("network", "net")):
        names = domain_xml.needed(root, kind)
        if not names:
            continue
        active = virsh.do(LIMIT, f"{word}-list", "--name", uri=uri).splitlines()
        for name in names:
            if name not in [line.strip() for line in active]:
                virsh.do(LIMIT, f"{word}-start", name, uri=uri)
                log(f"{kind} {name}: started")
            elif kind == "pool":
                virsh.do(LIMIT, "pool-refresh", name, uri=uri)


def _create(virsh: Virsh, root: Element, end: float) -> None:
    """:raises ToolstackError: it does not run."""
    name = root.findtext("name") or ""
    again = False
    while True:
        try:
            in_memory(
                domain_xml.text(root),
                lambda path, fd: virsh.do(end - time.monotonic(), "create", path, keep=(fd,)),
            )
            return
        except ToolstackError as error:
            away = any(word in str(error).lower() for word in AWAY)
            if again and not away and virsh.states(LIMIT).get(name) is DomainState.RUNNING:
                return  # libvirtd had done it before it went away
            if not away or time.monotonic() + AWAY_PAUSE + 1.0 > end:
                raise
            log(f"{name}: {error}; trying again")
            again = True
            time.sleep(AWAY_PAUSE)


def _restore(virsh: Virsh, name: str, state: str, limit: float) -> str:
    """:raises ToolstackError: it does not run."""
    log(f"{name}: restoring it from {state}")
    virsh.do(limit, "restore", state)
    try:
        os.unlink(state)
    except OSError as error:
        # It would be restored once more, with a disk that has gone on.
        virsh.destroy(name, LIMIT)
        raise ToolstackError(f"{state} cannot be removed: {error.strerror}") from error
    return ""


def _undefine(virsh: Virsh, config: str, name: str, text: str) -> None:
    """libvirt removes its own file of it, which may be this one: then it is put back."""
    log(f"{name}: is defined in libvirt, which must not start it by itself: undefining it")
    try:
        before = os.stat(config)
        virsh.do(LIMIT, "undefine", "--keep-nvram", name)
        if not os.path.exists(config):
            replace(config, text, before)
    except OSError as error:
        raise ToolstackError(f"{config}: {error.strerror}") from error
    except ToolstackError as error:
        log(f"{name}: stays defined (it has snapshots?): {error}")


def _make_image(options: Options, config: str, end: float) -> None:
    """:raises ToolstackError: there is no image."""
    folder, name = os.path.split(config)
    image = os.path.join(folder, name.partition(".")[0] + ".qcow2")
    backing = options.backing_file
    if not options.stateless and os.path.exists(image) and os.path.getsize(image) > 0:
        return
    _run(end, "qemu-img", "create", "-q", "-f", "qcow2", "-F", _format(backing, end),
         "-b", backing, image)  # fmt: skip
    log(f"{image}: made on {backing}")
    if options.copy_in:
        _run(end, "virt-copy-in", "-a", image, *options.copy_in, "/")


def _format(image: str, end: float) -> str:
    """QEMU 6.1 and later want it said, and do not guess for a good reason."""
    for line in _run(end, "qemu-img", "info", "-U", image).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "file format":
            return value.strip()
    raise ToolstackError(f"qemu-img info {image}: not understood")


def _run(end: float, *command: str) -> str:
    code, said = run(list(command), end - time.monotonic())
    if code != 0:
        raise ToolstackError(f"{' '.join(command)}: exit status {code}: {told(said)}")
    return said


def _state_file(options: Options, name: str) -> str:
    return os.path.join(options.snapshot, f"{name}.state")


def _read(config: str) -> str:
    """:raises ToolstackError:"""
    try:
        with open(config, errors="replace") as file:
            return file.read()
    except OSError as error:
        raise ToolstackError(f"{config}: {error.strerror}") from error


def _parse(config: str, text: str) -> Element:
    """:raises ToolstackError:"""
    try:
        return domain_xml.parse(text)
    except ValueError as error:
        raise ToolstackError(f"{config}: {error}") from None
