# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernels of an archive are taken, and what is done without the archive."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path

import pytest

from lab.images import release_kernel, releases, store
from lab.images.kernel import Headers
from lab.images.releases import DebianKernel, compare_versions, parse_index
from tests.kernel import test_kernels
from tests.kernel.test_kernels import for_each, named_versions, newest
from tests.support.notices import LOUD_WARNING, NOTICE

VERSIONS = (
    "5.10.223-1", "6.1.180-1~deb11u1", "6.1.192-3", "6.12.95-1~bpo12+1", "6.12.117-1",
    "6.12.117-1~deb12u1", "7.3.4-1~bpo13+1", "7.10~rc1-1~exp1", "7.10-1", "7.10", "1:1.0", "7.3",
    "7.3a-1", "7.3+b-1", "0:7.3",
)  # fmt: skip


def test_versions_sort_as_dpkg_sorts_them() -> None:
    for a, b in product(VERSIONS, repeat=2):
        order = compare_versions(a, b)
        relation = "lt" if order < 0 else "gt" if order > 0 else "eq"
        subprocess.run(["dpkg", "--compare-versions", a, relation, b], check=True, timeout=10)


def package(name: str, version: str, depends: str = "") -> str:
    return (
        f"Package: {name}\nSource: linux\nVersion: {version}\nDepends: {depends}\n"
        f"Description: a kernel\n of Debian\nFilename: pool/{name}.deb\nSHA256: {name}-sum\n\n"
    )


def suite(*versions: str) -> str:
    """An archive's list of packages, with each kernel that it once had."""
    text = package("linuxdoc-tools", "0.9")
    for version in versions:
        release = f"{version.partition('-')[0]}+deb13"
        exact = f"(= {version})"
        text += (
            package("linux-image-amd64", version, f"linux-image-{release}-amd64 {exact}")
            + package(
                f"linux-image-{release}-amd64", version,
                f"kmod, linux-base (>= 4.12~), linux-modules-{release}-amd64 {exact}",
            )
            + package(f"linux-modules-{release}-amd64", version)
            + package(
                f"linux-headers-{release}-amd64", version,
                f"gcc-14, linux-headers-{release}-common {exact}, linux-kbuild-{release}",
            )
            + package(f"linux-headers-{release}-common", version)
            + package(f"linux-kbuild-{release}", version)
        )  # fmt: skip
    return text


def test_newest_kernel_of_a_suite_with_all_its_packages() -> None:
    (kernel,) = parse_index("trixie", "http://mirror", suite("6.12.99-1", "6.12.118-1"))
    assert (kernel.release, kernel.flavour, kernel.package_group) == (
        "6.12.118+deb13-amd64", "amd64", "trixie",
    )  # fmt: skip
    assert [each.name for each in kernel.image] == [
        "linux-image-6.12.118+deb13-amd64", "linux-modules-6.12.118+deb13-amd64",
    ]  # fmt: skip
    assert {each.name for each in kernel.headers} == {
        "linux-headers-6.12.118+deb13-amd64",
        "linux-headers-6.12.118+deb13-common",
        "linux-kbuild-6.12.118+deb13",
    }
    assert {each.version for each in kernel.headers} == {"6.12.118-1"}
    assert kernel.image[0].url == "http://mirror/pool/linux-image-6.12.118+deb13-amd64.deb"


def test_own_kernel_is_the_newest_of_release_and_security() -> None:
    (old,) = parse_index("trixie", "http://mirror", suite("6.12.99-1"))
    (new,) = parse_index("trixie-security", "http://mirror", suite("6.12.118-1"))
    assert newest([new, old], ("trixie", "trixie-security")) == [new]
    assert newest([new, old], ("bookworm",)) == []


def test_documented_versions_are_read() -> None:
    named = named_versions()
    assert set(releases.SUITES) <= set(named)
    assert "bookworm-security/6.12" in named


@pytest.mark.parametrize("everything", [False, True])
def test_a_newer_kernel_that_does_not_build_is_reported(
    everything: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "kernels.md"
    table.write_text("| Suite | Kernel |\n|---|---|\n| trixie | 6.12.118-1 | amd64 |\n")
    monkeypatch.setattr(test_kernels, "TABLE", table)
    monkeypatch.setattr(test_kernels, "ALL", everything)
    (known,) = parse_index("trixie", "http://mirror", suite("6.12.118-1"))
    (newer,) = parse_index("trixie", "http://mirror", suite("6.12.119-1"))
    said: list[tuple[str, object]] = []

    def fails(*wrong: DebianKernel) -> bool:
        said.clear()
        try:
            for_each(
                [known, newer], lambda kernel: "error: no" if kernel in wrong else "", "built",
                lambda name, text: said.append((name, text)),
            )  # fmt: skip
        except AssertionError as error:
            assert "error: no" in str(error)
            return True
        return False

    assert not fails()
    assert [name for name, _text in said] == [NOTICE, NOTICE]
    assert fails(known)
    assert fails(newer) is everything
    warned = [str(text) for name, text in said if name == LOUD_WARNING]
    assert len(warned) == (0 if everything else 1)
    assert all("6.12.119" in text and "error: no" in text for text in warned)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the archive has: a list of packages for each suite."""
    monkeypatch.setenv("VESPER_LAB_CACHE", str(tmp_path))
    has = {"trixie": suite("6.12.118-1"), "trixie-backports": suite("7.3.4-1")}

    def index(name: str) -> str:
        if name not in has:
            raise store.BuildError("apt-get\n404  Not Found")
        return has[name]

    def headers(kernels: list[DebianKernel]) -> dict[DebianKernel, Headers]:
        if "gone from the mirror" in has and kernels[0].version == has["gone from the mirror"]:
            raise store.BuildError("apt-helper\nHash Sum mismatch")
        return {each: Headers(release=each.release, kdir=tmp_path) for each in kernels}

    monkeypatch.setattr(releases, "SUITES", ("trixie", "trixie-backports"))
    monkeypatch.setattr(releases, "_fetch_index", index)
    monkeypatch.setattr(release_kernel, "release_headers", headers)
    return has


def test_what_was_fetched_last_is_taken_without_the_mirror(archive: dict[str, str]) -> None:
    first = release_kernel.fetch_newest()
    assert {each.version for each in first.headers} == {"6.12.118-1", "7.3.4-1"}
    assert not first.warnings
    archive.clear()
    again = release_kernel.fetch_newest()
    assert again.headers == first.headers
    assert len(again.warnings) == 2
    assert "6.12.118-1" in again.warnings[0] and "404  Not Found" in again.warnings[0]


def test_a_kernel_that_is_removed_while_it_is_fetched_is_a_warning(archive: dict[str, str]) -> None:
    release_kernel.fetch_newest()
    archive["trixie"] = suite("6.12.118-1", "6.12.119-1")
    archive["gone from the mirror"] = "6.12.119-1"
    fetched = release_kernel.fetch_newest()
    assert {each.version for each in fetched.headers} == {"6.12.118-1", "7.3.4-1"}
    assert [text for text in fetched.warnings if "Hash Sum mismatch" in text]


def test_a_suite_that_is_removed_and_was_never_fetched_is_a_warning(
    archive: dict[str, str],
) -> None:
    del archive["trixie-backports"]
    fetched = release_kernel.fetch_newest()
    assert {each.version for each in fetched.headers} == {"6.12.118-1"}
    (warning,) = fetched.warnings
    assert warning.startswith("trixie-backports: not tested: ")
