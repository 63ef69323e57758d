# SPDX-License-Identifier: GPL-2.0-or-later
"""Probe images: one directory per guest kernel release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Image", "ImageError", "ImageStore"]


class ImageError(Exception):
    """No usable image; the text says for what, what there is, and what to do."""


@dataclass(frozen=True)
class Image:
    """A kernel module that fits a guest."""

    name: str
    release: str
    vermagic: str
    path: Path
    data: bytes


class ImageStore:
    def __init__(self, root: Path = Path("/var/lib/vesper/probes")) -> None:
        self.root = root

    def find(self, vm: str, release: str, vermagic: str, probe: str) -> Image:
        """:raises ImageError:"""
        raise NotImplementedError

    def list(self) -> list[Image]:
        """All readable images (``data`` empty)."""
        raise NotImplementedError


def build(headers: Path, store: ImageStore, *, source: Path | None = None) -> list[Image]:
    """Build the probes against kernel headers and put them into the store.

    :raises ImageError: with the end of make's output.
    """
    raise NotImplementedError
