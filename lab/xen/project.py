# SPDX-License-Identifier: GPL-2.0-or-later
"""Install the present project tree in a running host, as ``make install`` does."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from lab import images
from lab.guest import CHECK_PAGE
from lab.host import VESPERD_SETTINGS
from lab.images import store
from lab.images.probes import PROJECT
from lab.xen.disk import GUEST_KERNEL
from lab.xen.host import XenHost

__all__ = ["GUEST_INITRD", "guest_config", "install_bundle", "make_bundle"]

HERE = Path(__file__).parent / "dom0"

GUEST_INITRD = "/var/lib/lab/guest.initrd"

#: Takes what ``xl migrate`` on the other host sends.
RECEIVE = "/usr/local/sbin/lab-receive"

#: Hotplug script of the guest's network interface.
VIF_SCRIPT = "/etc/xen/scripts/vif-lab"


def guest_config(extra: str = "", *, on_crash: str = "destroy", kind: str = "pv") -> str:
    """vm1's xl configuration.

    :param extra: words for the guest's kernel command line (``lab.vesper=no``).
    :param kind: ``pvh``: can be migrated live.
    """
    return f"""\
name = "vm1"
type = "{kind}"
kernel = "{GUEST_KERNEL}"
ramdisk = "{GUEST_INITRD}"
memory = 160
vcpus = 1
tsc_mode = "native"
extra = "console=hvc0 loglevel=3 mitigations=off nokaslr audit=0 apparmor=0 cryptomgr.notests \
tsc=reliable {extra}"
vif = [ "bridge=br0,mac=00:16:3e:77:00:10,script=vif-lab" ]
on_crash = "{on_crash}"
on_poweroff = "destroy"
on_reboot = "restart"
"""


def make_bundle() -> bytes:
    """Return a tar archive for /: the installed project, probes, the guest."""
    kernel = images.kernel_of_tree()
    modules = images.build_modules(kernel)
    with tempfile.TemporaryDirectory(prefix="vesper-lab-") as name:
        stage = Path(name)
        store.run_build_command(
            ["make", "-s", "-C", PROJECT, "install", f"DESTDIR={stage}"], timeout=120
        )
        # Sources for DKMS and pages for people are no use in the lab's hosts.
        shutil.rmtree(stage / "usr/src", ignore_errors=True)
        shutil.rmtree(stage / "usr/share", ignore_errors=True)
        # Compiled here: an emulated host would take seconds at each first start.
        store.run_build_command(
            ["/usr/bin/python3", "-m", "compileall", "-q", "-s", stage, stage / "usr/lib/python3"],
            timeout=120,
        )
        probes = stage / "var/lib/vesper/probes" / kernel.release
        probes.mkdir(parents=True, exist_ok=True)
        for path in modules.probes:
            shutil.copy(path, probes)
        _put_file_in_bundle(stage, GUEST_INITRD, images.guest_initrd(kernel, modules).read_bytes())
        _put_file_in_bundle(stage, "/etc/xen/vm1.cfg", guest_config().encode())
        _put_file_in_bundle(stage, "/etc/vesper/vesperd.toml", VESPERD_SETTINGS.encode())
        for name, folder in (
            (CHECK_PAGE, PROJECT / "lab"),
            (VIF_SCRIPT, HERE),
            ("/usr/local/bin/ssh", HERE),
            (RECEIVE, HERE),
        ):
            _put_file_in_bundle(stage, name, (folder / Path(name).name).read_bytes(), 0o755)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for path in sorted(stage.rglob("*")):
                # Folders are made as needed: /lib must stay the link it is.
                if not path.is_dir():
                    archive.add(path, path.relative_to(stage), recursive=False)
        return data.getvalue()


def _put_file_in_bundle(stage: Path, name: str, data: bytes, mode: int = 0o644) -> None:
    path = stage / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def install_bundle(host: XenHost, data: bytes) -> None:
    """Unpack the bundle in a host, over what was there before; (re)start vesperd."""
    host.stop_vesperd()
    host.run_command(
        "tar -x -o --keep-directory-symlink -C / -f -", stdin=data, timeout=120, check=True
    )
    # Ends at once where there is one already: the port is taken.
    host.run_command(
        f"setsid socat -b 262144 TCP-LISTEN:7000,fork,reuseaddr EXEC:{RECEIVE} "
        ">/dev/null 2>&1 </dev/null &",
        check=True,
    )
    host.start_vesperd()
