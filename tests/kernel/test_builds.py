# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's modules where not all of them can be built, with a real kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab import images as lab_images
from lab.images.probes import SOURCES
from tests.kernel.support.headers import without_options
from vesper_monitor.guest.control import images

PROJECT = Path(__file__).resolve().parents[2]

#: Of the kernel's configuration, what parts of VESPER need and do without.
OPTIONS = (r"XEN(?:_\w+)?", "PCI_MSI", "BLOCK", "INET", "TASKSTATS", "JBD2")
SYMBOLS = r"\w*xen\w*|pci_\w*irq_vector\w*|\w*inetaddr\w*|jbd2_\w+"
LEFT_OUT = {"vesper_xen", "vesper_ivshmem", "block_error", "fs_error", "net_link", "process_exit"}


def copy_sources(directory: Path) -> Path:
    for folder in SOURCES:
        for path in PROJECT.glob(folder):
            copy = directory / path.relative_to(PROJECT)
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("build"))
    return directory / "probe_modules"


def make(modules: Path, kdir: Path, *words: str) -> set[str]:
    """Build. :returns: the modules that are there then."""
    done = subprocess.run(
        ["make", "-C", modules, f"KDIR={kdir}", "W=1", *words],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    assert f"{modules}" not in "".join(line for line in said.splitlines() if "warning:" in line)
    return {path.stem for path in modules.glob("build/*/*.ko")}


def test_modules_build_for_a_kernel_without_much(tmp_path: Path) -> None:
    """What depends on what it lacks is left out, the rest is built."""
    kernel = lab_images.kernel_of_tree()
    modules = copy_sources(tmp_path / "source")
    kdir = without_options(kernel.kdir, tmp_path / "headers", OPTIONS, SYMBOLS)
    built = make(modules, kdir)
    assert not built & LEFT_OUT
    assert {"vesper", "send_signal", "out_of_memory", "die", "probe_point"} <= built


def test_probes_that_cannot_be_built_are_named(tmp_path: Path) -> None:
    """One is refused by the compiler, one by the linker of modules."""
    kernel = lab_images.kernel_of_tree()
    modules = copy_sources(tmp_path / "source")
    with (modules / "net_link/net_link.c").open("a") as file:
        file.write("#error too new\n")
    with (modules / "process_exit/process_exit.c").open("a") as file:
        file.write("void vsp_gone(void);\nstatic void *user __used = vsp_gone;\n")
    store = images.ImageStore(tmp_path / "store")
    done = images.build_images(kernel.kdir, store, source=tmp_path / "source")
    assert set(done.failures) == {"net_link", "process_exit"}
    assert done.failures["net_link"].endswith("error: #error too new")
    assert "vsp_gone" in done.failures["process_exit"]
    built = {image.name for image in done.images}
    assert {"send_signal", "out_of_memory", "die", "probe_point"} <= built
    assert built.isdisjoint(done.failures)

    # In the guest itself no probe is built, and none of an earlier build is left.
    assert make(modules, kernel.kdir, "guest") == {"vesper", "vesper_xen", "vesper_ivshmem"}
