# SPDX-License-Identifier: GPL-2.0-or-later
"""How well a domain is watched: the answer of the one who watches it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Watching"]


@dataclass(frozen=True)
class Watching:
    """Asked for anew each time somebody needs it, never kept: a copy would go stale."""

    #: whether the end of the domain would be noticed
    followed: bool
    #: what is missing, and what to do; None: all is well, which needs a live session
    lacking: str | None
