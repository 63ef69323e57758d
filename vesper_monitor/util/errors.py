# SPDX-License-Identifier: GPL-2.0-or-later
"""The root of VESPER's exceptions."""

from __future__ import annotations

__all__ = ["VesperError"]


class VesperError(Exception):
    """An error that VESPER expects: its text says what was tried, on what, and what to do."""
