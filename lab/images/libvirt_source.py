# SPDX-License-Identifier: GPL-2.0-or-later
"""The configurations of libvirt's own tests: real input for all that reads such files.

>>> tests = libvirt_source() / "tests"
>>> sorted(tests.glob("xlconfigdata/*.cfg"))       # of xl; xmconfigdata: of xm
>>> sorted(tests.glob("qemuxml2argvdata/*.xml"))   # domains, and much else
>>> libvirt_source() / "src/conf/schemas"          # the schema of each kind of XML
"""

from __future__ import annotations

from pathlib import Path

from lab.images import store
from lab.images.releases import make_apt_configuration, sources_list

__all__ = ["libvirt_source"]

SUITE = "bookworm"
KEPT = ("*/tests/*.xml", "*/tests/*.cfg", "*/src/conf/schemas/*.rng")

#: In a directory of its own, with its own package lists: arguments are what is kept.
_FETCH = r"""
set -eu
mkdir -p lists/partial cache/archives/partial download source
export APT_CONFIG="$PWD/apt.conf"
apt-get -q update
(cd download && apt-get -q source --download-only --tar-only libvirt)
tar -xJf download/libvirt_*.orig.tar.xz -C source --strip-components=1 --wildcards "$@"
rm -rf lists cache download
"""


def libvirt_source() -> Path:
    """Return the folder with a part of libvirt's source tree.

    :raises BuildError: no Debian mirror to be reached (another one:
        ``VESPER_LAB_MIRROR``).
    """
    sources = sources_list(SUITE).replace("deb ", "deb-src ", 1)

    def fetch_source(directory: Path) -> None:
        (directory / "sources.list").write_text(sources)
        (directory / "apt.conf").write_text(make_apt_configuration(directory))
        store.run_build_command(["sh", "-c", _FETCH, "sh", *KEPT], timeout=300, cwd=directory)

    key = store.hash_inputs(sources, KEPT, _FETCH)
    return (
        store.build_image("libvirt-source", key, fetch_source, what="fetching libvirt's tests")
        / "source"
    )
