# SPDX-License-Identifier: GPL-2.0-or-later
"""save_config_on_stop, sync_config_on_stop: a running domain's configuration, kept.

What an administrator changes in a running domain is lost when it ends.
"""

from __future__ import annotations

import os

from vesper_monitor.ocf import domain_xml, holder
from vesper_monitor.ocf.call import log
from vesper_monitor.ocf.files import replace
from vesper_monitor.ocf.toolstack import ToolstackError, run, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.virsh import Virsh

__all__ = ["save"]


def save(virsh: Virsh, name: str, limit: float) -> None:
    """Write the configuration into the domain's file, if they differ. Never fails."""
    config = virsh.options.config
    try:
        if not _save(virsh, config, name, limit):
            return
        log(f"{name}: its configuration was saved in {config}")
        if virsh.options.sync_config:
            code, said = run(["csync2", "-x", config], limit)
            if code != 0:
                raise ToolstackError(f"csync2 -x {config}: exit status {code}: {told(said)}")
    except (ToolstackError, ValueError, OSError) as error:
        log(f"{name}: its configuration is not saved in {config}: {error}")


def _save(virsh: Virsh, config: str, name: str, limit: float) -> bool:
    """:returns: whether the file has changed."""
    root = domain_xml.parse(virsh.do(limit, "dumpxml", "--inactive", "--security-info", name))
    if root.findtext("name") != name:
        raise ValueError("what libvirt says of it is of another domain")
    with open(config, errors="replace") as file:
        old = file.read()
    path = holder.qemu_socket()
    device = domain_xml.device(root, path)
    if device is not None and domain_xml.device(domain_xml.parse(old), path) is None:
        # It was added for this run alone.
        domain_xml.remove(root, device)
    text = domain_xml.text(root)
    if text == old:
        return False
    replace(config, text, os.stat(config))
    return True
