# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables, notes and paragraphs for people, on a terminal or in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

__all__ = ["format_columns", "format_note", "format_paragraph"]


def format_columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with columns as wide as their cells; no line ends in blanks."""
    cells = [list(header), *([_format_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def format_note(mark: str, text: str) -> str:
    """Return a labelled sentence, folded to the terminal's width."""
    if not sys.stdout.isatty():
        return f"  {mark}: {text}"
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text,
        width,
        initial_indent=f"  {mark}: ",
        subsequent_indent=" " * (len(mark) + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_paragraph(text: str) -> str:
    """Return the text indented, and folded to the terminal's width."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _format_cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
