# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, fetched by exact version: headers to build modules with, and what boots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.images import store
from lab.images.kernel import Headers, Kernel, finish_headers, finish_image
from lab.images.releases import (
    SUITES,
    DebianKernel,
    Package,
    newest_kernels,
    why_not_fetched,
)
from lab.images.toolchain import TRIXIE

__all__ = ["Fetched", "fetch_newest", "release_headers", "release_kernel"]

#: Kernels whose headers are fetched at the same time.
MAX_PARALLEL_FETCHES = 4


@dataclass(frozen=True)
class Fetched:
    headers: dict[DebianKernel, Headers]
    warnings: tuple[str, ...]  #: about suites of which these are not the newest


def fetch_newest() -> Fetched:
    """Fetch the headers of the newest kernels of all suites.

    Without the mirror, or where a suite has gone, those that were fetched last are taken.
    """
    kernels, missing = newest_kernels()
    groups: dict[str, list[DebianKernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.package_group, []).append(kernel)
    last = _read_last_release()

    def fetch_kernels(group: str) -> tuple[dict[DebianKernel, Headers], str]:
        why = missing.get(_suite_of_group(group), "")
        if group in groups:
            try:
                return release_headers(groups[group]), ""
            except store.BuildError as error:
                why = why_not_fetched(error)
        try:
            found = release_headers(last[group])
        except (KeyError, store.BuildError):
            return {}, f"{group}: not tested: {why}"
        return found, f"{group}: tested is what was fetched last, {last[group][0].version}: {why}"

    wanted = {*groups, *(group for group in last if _suite_of_group(group) in missing)}
    wanted |= set(missing) - {_suite_of_group(group) for group in wanted}
    with ThreadPoolExecutor(MAX_PARALLEL_FETCHES) as executor:
        results = dict(
            zip(sorted(wanted), executor.map(fetch_kernels, sorted(wanted)), strict=True)
        )
    _write_last_release(
        last | {group: list(found) for group, (found, _why) in results.items() if found}
    )
    return Fetched(
        {kernel: each for found, _why in results.values() for kernel, each in found.items()},
        tuple(warning for _found, warning in results.values() if warning),
    )


def _suite_of_group(group: str) -> str:
    return group.partition("/")[0]


def _last_fetched() -> Path:
    return store.cache_directory() / "kernels-fetched-last.json"


def _read_last_release() -> dict[str, list[DebianKernel]]:
    try:
        text = _last_fetched().read_text()
    except FileNotFoundError:
        return {}

    def read_packages(found: Iterable[dict[str, str]]) -> tuple[Package, ...]:
        return tuple(Package(**each) for each in found)

    return {
        key: [
            DebianKernel(**{
                **kernel,
                "image": read_packages(kernel["image"]),
                "headers": read_packages(kernel["headers"]),
            })
            for kernel in kernels
        ]
        for key, kernels in json.loads(text).items()
        if _suite_of_group(key) in SUITES
    }  # fmt: skip


def _write_last_release(last: dict[str, list[DebianKernel]]) -> None:
    with store.hold_lock("kernels-fetched-last"):
        new = _last_fetched().with_suffix(".new")
        new.write_text(
            json.dumps({key: [asdict(kernel) for kernel in found] for key, found in last.items()})
        )
        new.rename(_last_fetched())


def release_headers(kernels: Sequence[DebianKernel]) -> dict[DebianKernel, Headers]:
    """
    :param kernels: flavours of one kernel.
    :raises BuildError: no Debian mirror to be reached (another one: ``VESPER_LAB_MIRROR``),
        or it has another version now.
    """
    packages = sorted({package for kernel in kernels for package in kernel.headers},
                      key=lambda package: package.name)  # fmt: skip
    releases = [kernel.release for kernel in kernels]

    def unpack_headers(directory: Path) -> None:
        _unpack_packages(packages, directory)
        for release in releases:
            finish_headers(directory / f"usr/src/linux-headers-{release}")

    directory = store.build_image(
        "headers",
        store.hash_inputs(2, *releases, *_package_sums(packages)),
        unpack_headers,
        what=f"fetching the headers of Linux {kernels[0].version} ({kernels[0].suite})",
    )
    return {
        kernel: Headers(
            release=kernel.release,
            kdir=directory / f"usr/src/linux-headers-{kernel.release}",
            toolchain=TRIXIE if kernel.suite.startswith("trixie") else None,
        )
        for kernel in kernels
    }


def release_kernel(kernel: DebianKernel, headers: Headers) -> Kernel:
    """
    :raises BuildError: see :func:`release_headers`.
    """

    def unpack_kernel(directory: Path) -> None:
        _unpack_packages(kernel.image, directory / "tree")
        finish_image(directory / "tree", directory / "vmlinux", kernel.release)

    directory = store.build_image(
        "release",
        store.hash_inputs(kernel.release, *_package_sums(kernel.image)),
        unpack_kernel,
        what=f"fetching Linux {kernel.release}",
    )
    return Kernel(
        release=kernel.release,
        vmlinux=directory / "vmlinux",
        kdir=headers.kdir,
        tree=directory / "tree",
        toolchain=headers.toolchain,
    )


def _package_sums(packages: Sequence[Package]) -> list[str]:
    return [package.sha256 for package in packages]


def _unpack_packages(packages: Sequence[Package], tree: Path) -> None:
    debs = tree / "debs"
    debs.mkdir(parents=True)
    files = [debs / f"{package.name}.deb" for package in packages]
    words: list[str | Path] = []
    for package, file in zip(packages, files, strict=True):
        words += [package.url, file, f"SHA256:{package.sha256}"]
    # By apt's settings of this machine (a proxy); the sums are from signed lists.
    store.run_build_command(
        ["/usr/lib/apt/apt-helper", "-q", "-o", "Acquire::Retries=3",
         "-o", "APT::Sandbox::User=root", "download-file", *words],
        timeout=900,
    )  # fmt: skip
    for file in files:
        store.run_build_command(["dpkg-deb", "-x", file, tree], timeout=300)
    shutil.rmtree(debs)
