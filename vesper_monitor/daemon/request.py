# SPDX-License-Identifier: GPL-2.0-or-later
"""Values out of a request, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from vesper_monitor.daemon.server import RequestError
from vesper_monitor.util.vm_name import explain_bad_name

__all__ = [
    "MAX_TEXT_CHARS",
    "boolean_field",
    "is_utf8",
    "names_field",
    "number_field",
    "optional_field",
    "text_field",
    "vm_name",
]

#: Names in one list.
MAX_NAMES = 64
MAX_TEXT_CHARS = 4096

_T = TypeVar("_T")


def text_field(request: dict[str, Any], key: str) -> str:
    """:raises RequestError: missing, empty, or no text."""
    value = request.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS or "\0" in value:
        raise RequestError("bad-request", f"'{key}' must be a text")
    if not is_utf8(value):
        raise RequestError("bad-request", f"'{key}' must be UTF-8")
    return value


def vm_name(request: dict[str, Any], key: str = "vm") -> str:
    """Return the name of a VM: all that are asked for pass here.

    :raises RequestError: missing, or none that a VM can have.
    """
    name = text_field(request, key)
    if (why := explain_bad_name(name)) is not None:
        raise RequestError("bad-request", f"'{key}' is not the name of a VM: {why}")
    return name


def is_utf8(value: str) -> bool:
    """Return whether a text can be written anywhere: JSON may bring half of a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def number_field(request: dict[str, Any], key: str, least: float, most: float) -> float:
    """:raises RequestError: missing, no number, or out of bounds."""
    value = request.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError("bad-request", f"'{key}' must be a number")
    if not least <= value <= most:
        raise RequestError("bad-request", f"'{key}' must be between {least:g} and {most:g}")
    return value


def boolean_field(request: dict[str, Any], key: str) -> bool:
    """:raises RequestError: missing, or neither true nor false."""
    value = request.get(key)
    if not isinstance(value, bool):
        raise RequestError("bad-request", f"'{key}' must be true or false")
    return value


def names_field(request: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A list of names. :raises RequestError:"""
    value = request.get(key)
    if value is None:
        return default
    if (
        not isinstance(value, list)
        or len(value) > MAX_NAMES
        or not all(isinstance(i, str) and 0 < len(i) <= 255 and is_utf8(i) for i in value)
    ):
        raise RequestError("bad-request", f"'{key}' must be a list of at most {MAX_NAMES} names")
    return tuple(value)


def optional_field(
    request: dict[str, Any], key: str, get: Callable[[dict[str, Any], str], _T]
) -> _T | None:
    """What ``get`` makes of it, or None if it is missing or null."""
    return None if request.get(key) is None else get(request, key)
