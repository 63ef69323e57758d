# SPDX-License-Identifier: GPL-2.0-or-later
"""How well a domain is watched."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Watching"]


@dataclass(frozen=True)
class Watching:
    """How well a domain is watched now. Ask each time: a copy would go stale."""

    #: whether the end of the domain would be noticed
    followed: bool
    #: the lack, and what to do; None: all is well, which needs a live session
    lacking: str | None
