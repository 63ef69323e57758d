# SPDX-License-Identifier: GPL-2.0-or-later
"""The store of probe images: one directory per guest kernel release.

An image is ``ROOT/RELEASE/PROBE.ko``, for example
``/var/lib/vesper/probes/6.1.0-56-amd64/send_signal.ko``. Images become part of
guests' kernels, so only those are used that nobody but root can have changed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vesper_monitor.guest import abi
from vesper_monitor.guest.control.kbuild import KbuildError, build_modules
from vesper_monitor.guest.control.modinfo import ModinfoError, read_modinfo
from vesper_monitor.guest.control.secure_open import NotTrustedError, open_trusted
from vesper_monitor.util.errors import VesperError

__all__ = [
    "DEFAULT_ROOT",
    "Built",
    "Image",
    "ImageError",
    "ImageStore",
    "build_images",
    "find_headers",
]

DEFAULT_ROOT = Path("/var/lib/vesper/probes")
#: An image and its parameters go to the guest in one region.
MAX_IMAGE_BYTES = (abi.MAX_REGION_PAGES - 1) * abi.PAGE_SIZE
#: Modules of the guest that are not probes.
_NOT_PROBES = frozenset({"vesper", "vesper_xen", "vesper_ivshmem"})
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


class ImageError(VesperError):
    """There is no usable image; the text says for which kernel, and what to do."""


@dataclass(frozen=True)
class Image:
    """A probe built for one kernel."""

    name: str
    release: str
    vermagic: str
    path: Path
    data: bytes


@dataclass(frozen=True)
class Built:
    """The result of :func:`build_images`."""

    images: list[Image]
    failures: dict[str, str]  #: probes that could not be built: the first error of each


class ImageStore:
    """The images of one host."""

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self.root = root

    def find_image(self, vm: str, release: str, vermagic: str, probe: str) -> Image:
        """Return the image of ``probe`` for a guest's kernel.

        :param vm: for error texts.
        :param release: as the guest says (``uname -r``): not trusted.
        :param vermagic: as the guest says; must equal the image's. The guest's
            kernel compares it too, but its error is less clear.
        :raises ImageError:
        """
        if not _is_safe_component(probe):
            raise ImageError(f"{vm}: '{probe}' is not the name of a probe")
        if not _is_safe_component(release):
            raise ImageError(f"{vm}: the guest names an impossible kernel release '{release}'")
        path = self.root / release / f"{probe}.ko"
        build_it = f"build it with: vesper probe build {release}"
        try:
            image = _read_image(path)
        except FileNotFoundError:
            have = ", ".join(self._list_releases(probe)) or "none"
            raise ImageError(
                f"{vm}: guest kernel {release} has no image of probe {probe} "
                f"(have: {have}); {build_it}"
            ) from None
        except ImageError as error:
            raise ImageError(f"{vm}: {error}") from None
        if image.vermagic.strip() != vermagic.strip():
            raise ImageError(
                f"{vm}: {path} was built for '{image.vermagic}', "
                f"the guest's kernel is '{vermagic}'; {build_it}"
            )
        return image

    def list_images(self) -> list[Image]:
        """Return all readable images, by release and name; ``data`` is empty."""
        images = []
        for path in sorted(self.root.glob("*/*.ko")):
            try:
                image = _read_image(path)
            except (ImageError, FileNotFoundError):
                continue
            images.append(Image(image.name, image.release, image.vermagic, path, b""))
        return images

    def _list_releases(self, probe: str) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob(f"*/{probe}.ko"))


def find_headers(release: str) -> Path:
    """Return the build directory of an installed kernel.

    :raises ImageError: there is none.
    """
    for path in (Path(f"/lib/modules/{release}/build"), Path(f"/usr/src/linux-headers-{release}")):
        if (path / "Makefile").exists():
            return path
    raise ImageError(
        f"no headers of kernel {release} on this host; install them "
        f"(Debian: apt install linux-headers-{release}) or name their directory"
    )


def build_images(headers: Path, store: ImageStore, *, source: Path | None = None) -> Built:
    """Build the probes for a kernel and install them in the store. Blocks.

    :param headers: a kernel build directory, e.g. ``/lib/modules/RELEASE/build``.
    :param source: the project's sources; default ``$VESPER_SOURCE``, else the
        newest ``/usr/src/vesper-VERSION``.
    :raises ImageError: none could be built; the text ends with make's last lines.
    """
    modules = (source or _find_source()) / "probe_modules"
    try:
        failures = build_modules(modules, headers)
    except KbuildError as error:
        raise ImageError(str(error)) from None
    release = _release_of(headers)
    built = sorted((modules / "build" / release).glob("*.ko"))
    probes = [path for path in built if path.stem not in _NOT_PROBES | failures.keys()]
    if not probes:
        errors = "".join(f"\n{name}: {error}" for name, error in failures.items())
        raise ImageError(f"no probe was built in {modules}/build/{release}{errors}")
    return Built(
        [_install_image(path, store.root / release) for path in probes],
        {name: error for name, error in failures.items() if name not in _NOT_PROBES},
    )


def _find_source() -> Path:
    given = os.environ.get("VESPER_SOURCE")
    if given:
        return Path(given)
    installed = sorted(Path("/usr/src").glob("vesper-*"))
    if not installed:
        raise ImageError(
            "no sources of VESPER in /usr/src/vesper-*; name their directory with --source"
        )
    return installed[-1]


def _release_of(headers: Path) -> str:
    """Return the kernel's ``uname -r``.

    Debian's ``include/config/kernel.release`` differs from it.
    """
    path = headers / "include/generated/utsrelease.h"
    try:
        match = re.search(r'UTS_RELEASE "([^"]+)"', path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{headers} is not a prepared kernel build directory: {error}") from None
    if match is None or not _is_safe_component(match[1]):
        raise ImageError(f"{path} names no kernel release")
    return match[1]


def _install_image(built: Path, directory: Path) -> Image:
    """Install an image atomically: vesperd may be reading."""
    for folder in (directory.parent, directory):  # independent of the umask
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    target = directory / built.name
    draft = directory / f".{built.name}.new"
    draft.write_bytes(built.read_bytes())
    draft.chmod(0o644)
    draft.replace(target)
    image = _read_image(target)
    return Image(image.name, image.release, image.vermagic, target, b"")


def _is_safe_component(word: str) -> bool:
    """Return whether a word is one path component that leads nowhere else."""
    return _WORD.fullmatch(word) is not None


def _read_image(path: Path) -> Image:
    """Read an image. :raises FileNotFoundError: :raises ImageError:"""
    try:
        with open_trusted(path) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageError(f"{path}: more than {MAX_IMAGE_BYTES} bytes; strip it with: strip -g")
        info = read_modinfo(data)
    except FileNotFoundError:
        raise
    except NotTrustedError as error:
        raise ImageError(f"image not used: {error}") from None
    except (OSError, ModinfoError) as error:
        raise ImageError(f"{path}: {error}; build it again") from None
    return Image(path.stem, path.parent.name, info.get("vermagic", ""), path, data)
