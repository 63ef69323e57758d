# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch libvirt's own test files: domains, what libvirt makes of them, and the schema."""

from __future__ import annotations

import os
from pathlib import Path

from lab.images import store
from lab.images.releases import KEYRING, apt_conf

__all__ = ["SCHEMA", "fetch_domains"]

SUITE = "bookworm"
SCHEMA = "src/conf/schemas/domain.rng"

#: In a directory of its own, with its own package lists. Only what is named is unpacked.
_FETCH = r"""
set -eu
mkdir -p lists/partial cache/archives/partial
export APT_CONFIG="$PWD/apt.conf"
apt-get -q update
apt-get -q source --download-only libvirt
tar -xJf libvirt_*.orig.tar.xz --strip-components=1 --wildcards \
	'*/tests/qemuxml2argvdata/*.xml' '*/tests/qemuxml2xmloutdata/*.xml' '*/src/conf/schemas/*.rng'
rm -rf lists cache libvirt_*
"""


def fetch_domains() -> Path:
    """Return the folder with ``tests/`` and ``src/`` of libvirt's source (9 MB are fetched once).

    :raises BuildError: no Debian mirror with sources to be reached (another one:
        ``VESPER_LAB_MIRROR``).
    """
    mirror = os.environ.get("VESPER_LAB_MIRROR", "http://deb.debian.org/debian")
    sources = f"deb-src [signed-by={KEYRING}] {mirror} {SUITE} main\n"

    def make(directory: Path) -> None:
        (directory / "sources.list").write_text(sources)
        (directory / "apt.conf").write_text(apt_conf(directory))
        store.run(["sh", "-c", _FETCH], timeout=300, cwd=directory)

    key = store.digest(sources, _FETCH)
    return store.build("libvirt-tests", key, make, what="fetching libvirt's test files")
