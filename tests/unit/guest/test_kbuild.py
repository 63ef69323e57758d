# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes that cannot be built for a kernel: the others are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.standin.image import make_image
from vesper_monitor.command import main as command
from vesper_monitor.guest.control import images
from vesper_monitor.guest.control.images import ImageError, ImageStore
from vesper_monitor.guest.control.kbuild import find_failures

DKMS = Path(__file__).resolve().parents[3] / "probe_modules/dkms.conf"
RELEASE = "6.6-x"
OBJ = "/usr/src/vesper-0.3.0/probe_modules/build/6.1.0-57-amd64/obj"

#: As make and Linux 6.1 print it.
COMPILED = f"""\
  CC [M]  {OBJ}/core/main.o
  CC [M]  {OBJ}/net_link/net_link.o
{OBJ}/net_link/net_link.c: In function ‘attach’:
{OBJ}/net_link/net_link.c:140:15: error: implicit declaration of function ‘register_x’
{OBJ}/net_link/net_link.c:141:15: error: and another
cc1: some warnings being treated as errors
make[3]: *** [/usr/src/linux-headers-6.1.0-57-common/scripts/Makefile.build:255: \
{OBJ}/net_link/net_link.o] Error 1
  CC [M]  {OBJ}/fs_error/mounted.o
In file included from {OBJ}/fs_error/mounted.c:20:
./include/linux/gone.h:3:10: fatal error: linux/more.h: No such file or directory
make[3]: *** [/usr/src/linux-headers-6.1.0-57-common/scripts/Makefile.build:255: \
{OBJ}/fs_error/mounted.o] Error 1
make[3]: Target '__build' not remade because of errors.
make[2]: *** [/usr/src/linux-headers-6.1.0-57-common/Makefile:2050: {OBJ}] Error 2
"""

#: As Linux 7.3 prints it: paths are relative.
NEWER = """\
  CC [M]  core/export.o
core/export.c:437:9: error: implicit declaration of function ‘register_syscore_ops’
make[4]: *** [/usr/src/linux-headers-7.3.4+deb13-common/scripts/Makefile.build:289: \
core/export.o] Error 1
  CC [M]  kvm_transport/guest/vesper_ivshmem.o
kvm_transport/guest/vesper_ivshmem.c:1:2: error: #error
make[4]: *** [/usr/src/linux-headers-7.3.4+deb13-common/scripts/Makefile.build:289: \
kvm_transport/guest/vesper_ivshmem.o] Error 1
"""

LINKED = f"""\
ERROR: modpost: "kallsyms_gone" [{OBJ}/fs_error.ko] undefined!
ERROR: modpost: "taskstats_gone" [process_exit/process_exit.ko] undefined!
ERROR: modpost: "another" [process_exit/process_exit.ko] undefined!
make[2]: *** [scripts/Makefile.modpost:126: {OBJ}/Module.symvers] Error 1
"""


def test_a_compilers_error_is_found() -> None:
    assert find_failures(COMPILED) == {
        "net_link": f"{OBJ}/net_link/net_link.c:140:15: error: implicit declaration of "
        "function ‘register_x’",
        "fs_error": "./include/linux/gone.h:3:10: fatal error: linux/more.h: No such file or "
        "directory",
    }


def test_errors_of_core_and_frontends_are_found() -> None:
    assert find_failures(NEWER) == {
        "vesper": "core/export.c:437:9: error: implicit declaration of function "
        "‘register_syscore_ops’",
        "vesper_ivshmem": "kvm_transport/guest/vesper_ivshmem.c:1:2: error: #error",
    }


def test_a_linkers_error_is_found() -> None:
    found = find_failures(LINKED)
    assert list(found) == ["fs_error", "process_exit"]
    assert "taskstats_gone" in found["process_exit"]


def test_a_build_without_errors_has_none() -> None:
    assert find_failures("  CC [M]  core/main.o\n  LD [M]  vesper.ko\n") == {}


MAKEFILE = """\
all: $(filter-out $(VSP_WITHOUT),{modules})
	@echo $(MAKEFLAGS) >> flags
{rules}
"""
BROKEN = """\
{name}:
	@echo '{name}/{name}.c:1:2: error: no {name} here'
	@echo 'make[3]: *** [Makefile.build:1: {name}/{name}.o] Error 1'; exit 1
"""


def sources(tmp_path: Path, *broken: str) -> Path:
    """Headers, and sources in which some modules are broken."""
    generated = tmp_path / "headers/include/generated"
    generated.mkdir(parents=True)
    (generated / "utsrelease.h").write_text(f'#define UTS_RELEASE "{RELEASE}"\n')
    built = tmp_path / f"probe_modules/build/{RELEASE}"
    built.mkdir(parents=True)
    for name in ("send_signal", "vesper"):
        (built / f"{name}.ko").write_bytes(make_image(name, f"{RELEASE} SMP"))
    rules = "".join(BROKEN.format(name=name) for name in broken)
    makefile = MAKEFILE.format(modules=" ".join(broken), rules=rules)
    (tmp_path / "probe_modules/Makefile").write_text(makefile)
    return tmp_path


def test_other_probes_are_built_beside_one_that_fails(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    source = sources(tmp_path, "net_link", "die", "vesper_xen")
    done = images.build_images(source / "headers", store, source=source)
    assert [image.name for image in done.images] == ["send_signal"]
    # A host needs no frontend: those are not its to build.
    assert done.failures == {
        "net_link": "net_link/net_link.c:1:2: error: no net_link here",
        "die": "die/die.c:1:2: error: no die here",
    }
    assert store.find_image("vm1", RELEASE, f"{RELEASE} SMP", "send_signal").data


def test_without_the_core_nothing_is_built(tmp_path: Path) -> None:
    source = sources(tmp_path, "vesper", "die")
    makefile = source / "probe_modules/Makefile"
    makefile.write_text(makefile.read_text().replace("vesper/vesper", "core/main"))
    with pytest.raises(ImageError, match=r"failed:\ncore/main\.c:1:2: error: no vesper here"):
        images.build_images(source / "headers", ImageStore(tmp_path / "store"), source=source)


def test_vesper_probe_build_names_the_probe_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources(tmp_path, "die")
    words = ("--headers", str(source / "headers"), "--source", str(source))
    place = ("--probes-dir", str(tmp_path / "store"))
    assert command.main(["probe", "build", RELEASE, *words, *place]) == command.FAILED
    said = capsys.readouterr()
    assert said.out.endswith(f"{tmp_path}/store/{RELEASE}/send_signal.ko\n")
    assert said.err == (
        "vesper: 1 of 2 probes cannot be built for this kernel; its guests are watched "
        "without these probes:\n  die: die/die.c:1:2: error: no die here\n"
    )


@pytest.mark.parametrize(
    ("options", "modules"),
    [
        (None, "vesper vesper_xen vesper_ivshmem"),  # no headers: of an older kernel
        ("CONFIG_XEN_XENBUS_FRONTEND=y\nCONFIG_PCI_MSI=y\n", "vesper vesper_xen vesper_ivshmem"),
        ("CONFIG_PCI_MSI=y\n", "vesper vesper_ivshmem"),
        ("", "vesper"),
    ],
)
def test_dkms_wants_what_is_built(tmp_path: Path, options: str | None, modules: str) -> None:
    """It sources its configuration, with the kernel's name and headers set."""
    if options is not None:
        (tmp_path / "include/config").mkdir(parents=True)
        (tmp_path / "include/config/auto.conf").write_text(options)
    script = f'kernelver=6.6-x; kernel_source_dir="$1"; . {DKMS}; '
    script += 'echo "${BUILT_MODULE_NAME[@]}"; echo "${BUILT_MODULE_LOCATION[@]}"; echo "$MAKE"'
    said = subprocess.run(
        ["bash", "-euc", script, "bash", tmp_path], capture_output=True, text=True, check=True
    )
    names, places, command = said.stdout.splitlines()
    assert names == modules
    assert set(places.split()) == {"probe_modules/build/6.6-x"}
    assert len(places.split()) == len(names.split())
    assert command == f"make -C probe_modules guest KDIR={tmp_path}"
