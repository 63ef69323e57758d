# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's modules in the kernels that Debian has now (docs/kernels.md).

They are built for all of them.  The kernels that most guests run are booted, with each probe's
real fault; all of them with VESPER_KERNELS=all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import images
from lab.images.release_kernel import Fetched, fetch_newest, release_kernel
from lab.images.releases import SUITES, DebianKernel, compare_versions, why_not_fetched
from tests.kernel.support.kernel_trial import missing_modules, try_kernel
from tests.support.notices import LOUD_WARNING, NOTICE

ALL = os.environ.get("VESPER_KERNELS") == "all"

#: Guests that run, and kernels that are built for, at the same time.
AT_ONCE = 2

#: CPUs of the guest with each flavour.  On one CPU Linux patches its own locking away.
CPUS = {"amd64": 2, "cloud-amd64": 1, "rt-amd64": 2}

#: The kernels that most guests run: each is the newest of these suites.
MOST_GUESTS = {
    "Debian 12": ("bookworm", "bookworm-security"),
    "Debian 13": ("trixie", "trixie-security"),
    "backports of Debian 13": ("trixie-backports",),
}
MOST_FLAVOURS = ("amd64", "cloud-amd64")

TABLE = Path(__file__).resolve().parents[2] / "docs/kernels.md"

Record = Callable[[str, object], None]


def named_versions() -> dict[str, str]:
    """Return the newest version in docs/kernels.md by suite and series."""
    rows = re.findall(r"^\| ([\w.-]+(?: \d+\.\d+)?) \| (\d\S*) \|", TABLE.read_text(), re.MULTILINE)
    return {name.replace(" ", "/"): version for name, version in rows}


def is_newer(kernel: DebianKernel) -> bool:
    """Whether docs/kernels.md names no such new kernel."""
    named = named_versions().get(kernel.package_group)
    return named is None or compare_versions(kernel.version, named) > 0


@pytest.fixture(scope="session")
def fetched() -> Fetched:
    found = fetch_newest()
    assert found.headers, found.warnings
    return found


def for_each(
    kernels: Iterable[DebianKernel],
    attempt: Callable[[DebianKernel], str],
    what: str,
    record: Record,
) -> None:
    """Try something with each kernel.

    What goes wrong with one that is newer than all that docs/kernels.md names stops nobody's
    work: it is a warning, but for "make test-kernels".  One that the archive no longer has is
    a warning there, too.

    :param attempt: returns what is wrong, or nothing; raises BuildError: not to be fetched.
    """

    def run(kernel: DebianKernel) -> tuple[str, bool]:
        """What is wrong, and whether it stops nobody's work."""
        try:
            return attempt(kernel), is_newer(kernel) and not ALL
        except images.BuildError as error:
            return why_not_fetched(error), True

    kernels = list(kernels)
    good, wrong = [], []
    with ThreadPoolExecutor(AT_ONCE) as executor:
        for kernel, (trouble, excused) in zip(kernels, executor.map(run, kernels), strict=True):
            text = f"{kernel}: not {what}:\n{trouble}"
            if not trouble:
                good.append(kernel)
            elif excused:
                record(LOUD_WARNING, f"{text}\n(docs/kernels.md tells what to do)")
            else:
                wrong.append(text)
    for kernel in good:
        record(NOTICE, f"{what}: {kernel}")
    assert not wrong, "\n\n".join(wrong)


def test_no_kernel_is_left_out(fetched: Fetched, record_property: Record) -> None:
    for warning in fetched.warnings:
        record_property(LOUD_WARNING, warning)
    assert {kernel.flavour for kernel in fetched.headers} == set(CPUS)


@pytest.mark.parametrize("suite", SUITES)
def test_modules_build(suite: str, fetched: Fetched, record_property: Record) -> None:
    kernels = [kernel for kernel in fetched.headers if kernel.suite == suite]

    def build(kernel: DebianKernel) -> str:
        try:
            return missing_modules(images.build_modules(fetched.headers[kernel]))
        except images.BuildError as error:
            return str(error)

    for_each(kernels, build, "built", record_property)


def newest(kernels: Iterable[DebianKernel], suites: tuple[str, ...]) -> list[DebianKernel]:
    """Of these suites' own kernels, in the flavours that most guests run."""
    found: dict[str, DebianKernel] = {}
    for kernel in kernels:
        if kernel.suite in suites and not kernel.series and kernel.flavour in MOST_FLAVOURS:
            best = found.get(kernel.flavour)
            if best is None or compare_versions(kernel.version, best.version) > 0:
                found[kernel.flavour] = kernel
    return list(found.values())


@pytest.mark.parametrize("of", SUITES if ALL else MOST_GUESTS)
def test_probes_see_real_faults(
    of: str, fetched: Fetched, tmp_path: Path, record_property: Record
) -> None:
    if ALL:
        kernels = [kernel for kernel in fetched.headers if kernel.suite == of]
    else:
        kernels = newest(fetched.headers, MOST_GUESTS[of])

    def boot(kernel: DebianKernel) -> str:
        headers = fetched.headers[kernel]
        booted = release_kernel(kernel, headers)
        try:
            modules = images.build_modules(headers)
        except images.BuildError as error:
            return str(error)
        return try_kernel(booted, modules, CPUS[kernel.flavour], tmp_path / kernel.release)

    for_each(kernels, boot, "booted", record_property)
