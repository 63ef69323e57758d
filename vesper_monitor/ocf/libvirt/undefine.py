# SPDX-License-Identifier: GPL-2.0-or-later
"""Make libvirt forget a domain that it has defined, which it might start by itself.

What belongs to the domain is kept: its NVRAM and the state of its TPM.
"""

from __future__ import annotations

import os

from vesper_monitor.ocf.atomic_file import replace_file
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.libvirt import domain_xml, vtpm
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackHangsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

    from vesper_monitor.ocf.libvirt.virsh_call import VirshCall

__all__ = ["take_uuid", "undefine_domain"]

#: Seconds for one command.
UNDEFINE_LIMIT_S = 20.0
KEEP_TPM = "--keep-tpm"


def undefine_domain(virsh: VirshCall, config: str, name: str, data: bytes, root: Element) -> bool:
    """Undefine a domain that does not run.

    :param data: the configuration file, which may be libvirt's own, so that it goes
        with the definition; then it is put back.
    :param root: of that.
    :returns: whether libvirt does not have it any more.
    :raises ToolstackError: the file is lost.
    """
    log_line(f"{name}: is defined in libvirt, which might start it by itself; undefining it")
    try:
        before = os.stat(config)
        keep = ["--keep-nvram"]
        if _knows_keep_tpm(virsh):
            keep.append(KEEP_TPM)
        elif vtpm.list_backends(root) or _may_have_tpm(virsh, name):
            log_line(f"{name}: stays defined: this virsh would delete the state of its TPM")
            _stop_autostart(virsh, name)
            return False
        try:
            virsh.do_to(name, UNDEFINE_LIMIT_S, "undefine", *keep)
        finally:
            if not os.path.exists(config):
                replace_file(config, data, before)
    except OSError as error:
        raise ToolstackError(f"{config}: {error.strerror}") from error
    except ToolstackHangsError:
        raise
    except ToolstackError as error:
        log_line(f"{name}: stays defined (it has snapshots?): {error}")
        _stop_autostart(virsh, name)
        return False
    return True


def take_uuid(virsh: VirshCall, name: str, root: Element) -> None:
    """Give the copy the UUID of a domain that stays defined, if the file says none.

    With another one libvirt would refuse it.
    """
    if domain_xml.read_text(root, "uuid"):
        return
    domain_xml.set_uuid(root, virsh.find_ident(name, UNDEFINE_LIMIT_S))


def _knows_keep_tpm(virsh: VirshCall) -> bool:
    """Whether virsh can keep the TPM's state when it undefines (8.9 and later)."""
    return KEEP_TPM in virsh.run_virsh(UNDEFINE_LIMIT_S, "help", "undefine")


def _may_have_tpm(virsh: VirshCall, name: str) -> bool:
    """Whether the domain as it is defined has a TPM with a state; if in doubt, it has."""
    try:
        defined = domain_xml.parse_domain(
            virsh.do_to(name, UNDEFINE_LIMIT_S, "dumpxml", "--inactive")
        )
    except (ToolstackError, ValueError) as error:
        log_line(f"{name}: cannot tell whether it has a TPM: {error}")
        return True
    return bool(vtpm.list_backends(defined))


def _stop_autostart(virsh: VirshCall, name: str) -> None:
    try:
        virsh.do_to(name, UNDEFINE_LIMIT_S, "autostart", "--disable")
    except ToolstackError as error:
        log_line(f"{name}: libvirt may start it by itself: {error}")
