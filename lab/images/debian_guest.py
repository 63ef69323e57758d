# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that people log in to: Debian with systemd, PAM and delegated cgroups, on a disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.images import store
from lab.images.debian import EXCLUDE, SUITE
from lab.images.mmdebstrap import make_debian_tree

__all__ = ["BOOT_MODULES", "PASSWORD", "USER", "guest_disk"]

#: Has no rights of root's, and a password to log in with.
USER = PASSWORD = "alice"

#: Debian's modules, for the disk to be found.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")

PACKAGES = (
    "busybox-static",
    "dbus",
    "dbus-user-session",
    "kmod",
    "libpam-systemd",
    "login",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
)

#: root's shell on the second serial line: no login, so it has no login uid.
_SHELL_UNIT = """\
[Unit]
Description=root's shell for the tests
After=multi-user.target

[Service]
ExecStart=/usr/local/sbin/lab-shell
Restart=always

[Install]
WantedBy=multi-user.target
"""

_SHELL = """\
#!/bin/bash
exec 3</dev/ttyS1 >/dev/console 2>&1
echo "the guest is up"
while read -r line <&3; do command eval "$line"; done
"""

#: The service: a main process, which systemd starts and ends.
_HTTPD_UNIT = """\
[Unit]
Description=web server

[Service]
ExecStart=/usr/local/sbin/httpd -f -p 80 -h /srv

[Install]
WantedBy=multi-user.target
"""

#: Take time under emulation, and do nothing that the tests want.
_MASKED = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "modprobe@drm.service",
    "serial-getty@ttyS0.service", "systemd-timesyncd.service", "systemd-update-utmp.service",
    "systemd-journal-flush.service", "systemd-hwdb-update.service", "ldconfig.service",
)  # fmt: skip

#: Run by mmdebstrap at the end. The third serial line has a login, as a terminal has.
_FINISH = f"""
set -eu
chroot "$1" useradd -m -s /bin/bash {USER}
echo {USER}:{PASSWORD} | chroot "$1" chpasswd
ln -s /bin/busybox "$1/usr/local/sbin/httpd"
chroot "$1" systemctl enable httpd.service lab-shell.service serial-getty@ttyS2.service
chroot "$1" systemctl mask {" ".join(_MASKED)}
chroot "$1" systemctl set-default multi-user.target
echo debian >"$1/etc/hostname"
"""

#: Place in the tree, text, mode.
_FILES = (
    ("etc/systemd/system/lab-shell.service", _SHELL_UNIT, 0o644),
    ("etc/systemd/system/httpd.service", _HTTPD_UNIT, 0o644),
    ("usr/local/sbin/lab-shell", _SHELL, 0o755),
    ("etc/fstab", "/dev/vda / ext4 defaults 0 0\n", 0o644),
)


def _build_guest_disk(directory: Path) -> None:
    layer, tree = directory / "layer", directory / "tree"
    for place, text, mode in _FILES:
        path = layer / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    hooks = [f'cp -a {layer}/. "$1"', _FINISH]
    make_debian_tree(tree, SUITE, PACKAGES, exclude=EXCLUDE, hooks=hooks)
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(tree / "var/cache/apt", ignore_errors=True)
    image = directory / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    # No journal: nobody keeps what is written to it.
    store.run_build_command(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, image], timeout=300
    )
    shutil.rmtree(tree)
    shutil.rmtree(layer)


def guest_disk() -> Path:
    """Return the guest's disk (raw ext4). Never write to it: use ``snapshot=on``.

    :raises BuildError: mmdebstrap failed, e.g. no Debian mirror to be reached
        (another one: ``VESPER_LAB_MIRROR``).
    """
    mirror = os.environ.get("VESPER_LAB_MIRROR", "")
    key = store.hash_inputs(SUITE, PACKAGES, EXCLUDE, _FINISH, _FILES, mirror)
    return (
        store.build_image(
            "debian-guest", key, _build_guest_disk, what=f"building the guest's Debian ({SUITE})"
        )
        / "disk.img"
    )
