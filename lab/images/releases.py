# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest kernels in Debian's archives now, by suite and flavour."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from lab.images import store

__all__ = [
    "SUITES",
    "DebianKernel",
    "Package",
    "compare_versions",
    "make_apt_configuration",
    "newest_kernels",
    "parse_index",
    "sources_list",
    "why_not_fetched",
]

SUITES = (
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-backports",
    "bookworm-security",
    "trixie",
    "trixie-backports",
    "trixie-security",
)

#: Half of its files have gone from the archive; it is Debian 12's kernel.
LEFT_OUT = {"bullseye-security/6.1"}

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

#: For one suite's index, also if the mirror does not answer.
INDEX_LIMIT_S = 180

#: $1 is the archive's suite.  Names the suite's list of packages in the last line.
_UPDATE = r"""
set -eu
mkdir -p lists/partial cache/archives/partial
export APT_CONFIG="$PWD/apt.conf"
# Without the option, apt goes on with an old list when it finds no mirror.
apt-get -q update --error-on=any -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
	>update.log 2>&1 || { grep -m 1 '^[EW]:' update.log >&2; exit 1; }
/usr/lib/apt/apt-helper cat-file \
	"$(apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages')"
"""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    url: str
    sha256: str  #: from an index that apt has found signed
    depends: str = ""


@dataclass(frozen=True)
class DebianKernel:
    """One kernel of an archive.

    :ivar image: packages with the kernel and its modules.
    :ivar headers: packages that modules are built with.
    """

    suite: str
    series: str  #: "6.12-" where a suite has it beside its own kernel (linux-image-6.12-amd64)
    flavour: str
    version: str  #: of the packages
    release: str  #: as uname -r says it
    image: tuple[Package, ...]
    headers: tuple[Package, ...]

    @property
    def package_group(self) -> str:
        """Flavours of one kernel: "bookworm-security", "bookworm-security/6.12"."""
        return f"{self.suite}/{self.series}".rstrip("/-")

    def __str__(self) -> str:
        return f"{self.release} ({self.version}, {self.suite})"


def sources_list(*suites: str) -> str:
    lines = (
        f"deb [signed-by={KEYRING}] {_find_archive_of(suite)} {suite} main\n" for suite in suites
    )
    return "".join(lines)


def _find_archive_of(suite: str) -> str:
    """Security updates are in an archive of their own, beside Debian's."""
    mirror = os.environ.get("VESPER_LAB_MIRROR", "http://deb.debian.org/debian").rstrip("/")
    return f"{mirror}-security" if suite.endswith("-security") else mirror


def make_apt_configuration(directory: Path) -> str:
    """Return the configuration of an apt that keeps all its files below that directory."""
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


def newest_kernels() -> tuple[list[DebianKernel], dict[str, str]]:
    """
    :returns: the kernels that the archives have now, and why not, by suite,
        where an archive or a suite cannot be read.
    """

    def read_index(suite: str) -> list[DebianKernel] | store.BuildError:
        try:
            return parse_index(suite, _find_archive_of(suite), _fetch_index(suite))
        except store.BuildError as error:
            return error

    kernels: list[DebianKernel] = []
    missing: dict[str, str] = {}
    with ThreadPoolExecutor(len(SUITES)) as executor:
        for suite, found in zip(SUITES, executor.map(read_index, SUITES), strict=True):
            if isinstance(found, store.BuildError):
                missing[suite] = why_not_fetched(found)
            elif not found:
                missing[suite] = "no kernel in it"
            else:
                kernels += found
    return kernels, missing


def why_not_fetched(error: store.BuildError) -> str:
    """Return the line in which apt gives the cause."""
    lines = str(error).splitlines()
    return next((line for line in lines if line.startswith(("E: ", "W: "))), lines[-1])


def _fetch_index(suite: str) -> str:
    """Return the suite's list of packages. The last one is kept, so that apt can compare."""
    directory = store.cache_directory() / "archive-lists" / suite
    with store.hold_lock(f"archive-lists-{suite}"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "sources.list").write_text(sources_list(suite))
        (directory / "apt.conf").write_text(make_apt_configuration(directory))
        command = ["sh", "-c", _UPDATE]
        return store.run_build_command(command, timeout=INDEX_LIMIT_S, cwd=directory).decode()


def compare_versions(a: str, b: str) -> int:
    """Compare the versions of two Debian packages: less than 0, 0, more than 0."""
    # A letter sorts before what is no letter, "~" before all and before the end.
    part = re.compile(r"(\d+)|(\D+)")

    def sort_key(version: str) -> list[tuple[list[int], int]]:
        """Return the key of a text and of the number after it."""
        found: list[tuple[list[int], int]] = [([0], 0)]
        for number, text in part.findall(version):
            if text:
                found.append(([_order_of_character(c) for c in text] + [0], 0))
            else:
                found[-1] = (found[-1][0], int(number))
        return [*found, ([0], 0)]

    def split_version(
        version: str,
    ) -> tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]:
        epoch, colon, rest = version.partition(":")
        upstream, _, revision = (rest if colon else version).rpartition("-")
        if not upstream:
            upstream, revision = revision, "0"
        return int(epoch) if colon else 0, sort_key(upstream), sort_key(revision)

    left, right = split_version(a), split_version(b)
    return (left > right) - (left < right)


def _order_of_character(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) + (0 if character.isalpha() else 256)


def parse_index(suite: str, archive: str, text: str) -> list[DebianKernel]:
    """
    :param archive: URL, to which the names of files are relative.
    :param text: a "Packages" file.
    """
    packages: dict[str, list[Package]] = {}
    for stanza in re.finditer(r"^Package: linux-.*\n(?:.+\n)*", text, re.MULTILINE):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", stanza[0], re.MULTILINE))
        package = Package(
            fields["Package"], fields["Version"], f"{archive}/{fields['Filename']}",
            fields["SHA256"], fields.get("Depends", ""),
        )  # fmt: skip
        packages.setdefault(package.name, []).append(package)
    for versions in packages.values():
        versions.sort(key=cmp_to_key(lambda a, b: compare_versions(a.version, b.version)))
    found = []
    for name in packages:
        match = re.fullmatch(r"linux-image-(\d+\.\d+-)?((?:cloud-|rt-)?amd64)", name)
        if match is None:
            continue
        series, flavour = match[1] or "", match[2]
        (image,) = (
            each for each in _list_needed(packages, name) if each.name.startswith("linux-image-")
        )
        release = image.name.removeprefix("linux-image-")
        headers = _pick_package(packages, f"linux-headers-{release}", image.version)
        kernel = DebianKernel(
            suite, series, flavour, image.version, release,
            image=tuple(
                _dependency_closure(packages, image, r"linux-(image|binary|modules|base)-\d")
            ),
            headers=tuple(_dependency_closure(packages, headers, r"linux-(headers|kbuild)-\d")),
        )  # fmt: skip
        if kernel.package_group not in LEFT_OUT:
            found.append(kernel)
    return found


def _pick_package(packages: dict[str, list[Package]], name: str, version: str | None) -> Package:
    """Return that version of a package, or its newest."""
    found = [each for each in packages.get(name, ()) if version in (None, each.version)]
    if not found:
        raise store.BuildError(f"the archive has no {name} {version or ''}".rstrip())
    return found[-1]


def _list_needed(packages: dict[str, list[Package]], name: str) -> Iterator[Package]:
    """Return which packages of Linux the newest package of that name depends on."""
    yield from _list_dependencies(packages, packages[name][-1], r"linux-\w+-\d")


def _list_dependencies(
    packages: dict[str, list[Package]], package: Package, pattern: str
) -> Iterator[Package]:
    for word in package.depends.split(", "):
        match = re.match(r"(\S+)(?: \(= (\S+)\))?", word)
        if match and re.match(pattern, match[1]):
            yield _pick_package(packages, match[1], match[2])


def _dependency_closure(
    packages: dict[str, list[Package]], package: Package, pattern: str
) -> dict[Package, None]:
    found = {package: None}
    for each in _list_dependencies(packages, package, pattern):
        found |= _dependency_closure(packages, each, pattern)
    return found
