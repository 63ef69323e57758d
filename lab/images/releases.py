# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels of several Debian releases, for guests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lab.images import store
from lab.images.kernel import Kernel, unpack

__all__ = ["FLAVOURS", "RELEASES", "Release", "apt_conf", "release_kernel", "sources_list"]

FLAVOURS = ("amd64", "cloud-amd64")


@dataclass(frozen=True)
class Release:
    version: str  #: of the kernel
    suites: tuple[str, ...]  #: where it is, with what its tools need on this machine


#: Debian 13's own 6.12 comes with tools that need a newer libc; the same kernel
#: is in Debian 12's backports.
RELEASES = (
    Release("5.10", ("bullseye",)),
    Release("6.1", ("bookworm",)),
    Release("6.12", ("bookworm-backports",)),
)

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

#: In a directory of its own, with its own package lists: $1 is the flavour.
_FETCH = r"""
set -eu
depends() { apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/^ *Depends: //p'; }
mkdir -p lists/partial cache/archives/partial
export APT_CONFIG="$PWD/apt.conf"
apt-get -q update
image=$(depends "linux-image-$1" | grep '^linux-image-[0-9]')
headers=$(depends "linux-headers-$1" | grep '^linux-headers-[0-9]')
rest=$(depends "$headers" | grep -E '^linux-(headers|kbuild)-')
mkdir debs
cd debs
apt-get -q download $image $headers $rest
cd ..
rm -rf lists cache
"""


def sources_list(*suites: str) -> str:
    mirror = os.environ.get("VESPER_LAB_MIRROR", "http://deb.debian.org/debian")
    return "".join(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n" for suite in suites)


def apt_conf(directory: Path) -> str:
    """For an apt with its own package lists, all of it below that directory."""
    return f"""\
Dir::Etc::SourceList "{directory}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "{directory}/lists";
Dir::State::Status "/dev/null";
Dir::Cache "{directory}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"""


def release_kernel(release: Release, flavour: str) -> Kernel:
    """
    :param flavour: of :data:`FLAVOURS`.
    :raises BuildError: no Debian mirror to be reached (another one:
        ``VESPER_LAB_MIRROR``).
    """
    sources = sources_list(*release.suites)

    def make(directory: Path) -> None:
        (directory / "sources.list").write_text(sources)
        (directory / "apt.conf").write_text(apt_conf(directory))
        store.run(["sh", "-c", _FETCH, "sh", flavour], timeout=900, cwd=directory)

    fetched = store.build(
        "release",
        store.digest(sources, flavour, _FETCH),
        make,
        what=f"fetching Linux {release.version}, {flavour}",
    )
    return unpack(sorted((fetched / "debs").glob("*.deb")))
