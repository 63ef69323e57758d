# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a KVM host: libvirt's configuration and the guests' definitions."""

from __future__ import annotations

from lab.cluster import files

__all__ = [
    "GUEST_INITRD",
    "GUEST_KERNEL",
    "LIBVIRTD_CONF",
    "QEMU_CONF",
    "QEMU_GROUP",
    "QEMU_USER",
    "make_domain_xml",
    "make_host_uuid",
]

GUEST_KERNEL = "/var/lib/lab/vmlinux"
GUEST_INITRD = "/var/lib/lab/guest.initrd"

#: The nodes are namespaces: no cgroups, no users of their own, no virtlogd.
QEMU_CONF = """\
security_driver = "none"
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
seccomp_sandbox = 0
auto_dump_path = "/run/dump"
"""

QEMU_USER = "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n"
QEMU_GROUP = "libvirt-qemu:x:64055:\n"

#: Migrations use TCP without authentication.
LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "%s"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def make_host_uuid(number: int) -> str:
    """Return a node's UUID: libvirt refuses to migrate between equal machines."""
    return f"6c616200-0000-4000-8000-{number:012d}"


#: Quick to boot. nokaslr: saves a moment when emulated.
COMMAND_LINE = (
    "console=ttyS0 loglevel=3 mitigations=off nokaslr audit=0 apparmor=0 cryptomgr.notests"
)
#: An emulated TSC is calibrated wrongly while this machine is busy.
EMULATED = "clocksource=hpet"


def make_domain_xml(
    kvm: bool,
    number: int = 1,
    *,
    memory: int = 128,
    extra: str = "",
    on_crash: str = "destroy",
    devices: str = "",
) -> str:
    """Return a guest's definition, as its owner would write it, without VESPER.

    :param kvm: with KVM, or emulated.
    :param number: vm1, vm2 ...; its address is 10.77.0.10, 10.77.0.11 ...
    :param memory: MiB.
    :param extra: words for the guest's kernel command line (``lab.vesper=no``).
    :param devices: more of them.
    """
    name = f"vm{number}"
    cpu = (
        "<cpu mode='host-passthrough' check='none'/>"
        if kvm
        else "<cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>"
    )
    words = [COMMAND_LINE, *([] if kvm else [EMULATED])]
    words += [f"lab.ip={files.GUESTS}.{number + 9}/24", extra]
    return f"""\
<domain type='{"kvm" if kvm else "qemu"}'>
  <name>{name}</name>
  <uuid>76657370-6572-4000-8000-{number:012d}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>{GUEST_KERNEL}</kernel>
    <initrd>{GUEST_INITRD}</initrd>
    <cmdline>{" ".join(words)}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  {cpu}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>{on_crash}</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <mac address='52:54:00:77:00:{number + 9:02x}'/>
      <source bridge='br0'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='pty'>
      <log file='/var/log/guest-{name}.log' append='on'/>
      <target port='0'/>
    </serial>
    <memballoon model='none'/>
    <panic model='isa'/>
    {devices}
  </devices>
</domain>
"""
