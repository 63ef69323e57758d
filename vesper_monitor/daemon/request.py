# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of requests (docs/api.md), checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from vesper_monitor.daemon.connection import Connection
from vesper_monitor.daemon.server import Handler, RequestError
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal.records import ActivationRecord
from vesper_monitor.util.vm_name import explain_bad_name

__all__ = [
    "MAX_TEXT_CHARS",
    "SAVE_LIMIT_S",
    "Check",
    "Operation",
    "Right",
    "boolean_field",
    "is_about",
    "is_utf8",
    "names_field",
    "names_or",
    "no_such_vm_error",
    "number_between",
    "number_field",
    "optional",
    "text_field",
    "vm_name",
    "whole_number",
]

#: Names in one list.
MAX_NAMES = 64
#: Characters of one of them.
MAX_NAME_CHARS = 255
MAX_TEXT_CHARS = 4096
#: s that the answer to a stop or a resume waits for the disk.  A vesperd that is killed after
#: it would go on with what has ended; a disk that hangs must not hold up the stop.
SAVE_LIMIT_S = 0.5

#: Returns the value of a key of a request, or raises RequestError.
Check = Callable[[dict[str, Any], str], Any]

_T = TypeVar("_T")


class Right(Enum):
    """Who may ask for an operation."""

    READ = "root, and the group of readers"
    ROOT = "root alone"


@dataclass(frozen=True)
class Operation:
    """One ``op`` of the api.

    :ivar arguments: which keys of the request it uses, and what each must be.  The handler
        is given the checked values in their place.
    """

    name: str
    handler: Handler
    right: Right
    arguments: Mapping[str, Check] = field(default_factory=dict)

    def check_arguments(self, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
        """Return the request with its arguments checked; one that is missing is None.

        :raises RequestError: the client may not ask for it, or an argument is wrong.
        """
        if self.right is Right.ROOT and not connection.privileged:
            raise RequestError("denied", f"{self.name}: only root may do that")
        optional(vm_name)(request, "vm")  # a name, even where it is not used
        return request | {key: check(request, key) for key, check in self.arguments.items()}


def text_field(request: dict[str, Any], key: str) -> str:
    """Return a text.

    :raises RequestError: it is missing, empty, or no text.
    """
    value = request.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS or "\0" in value:
        raise RequestError("bad-request", f"'{key}' must be a text")
    if not is_utf8(value):
        raise RequestError("bad-request", f"'{key}' must be UTF-8")
    return value


def vm_name(request: dict[str, Any], key: str = "vm") -> str:
    """Return the name of a VM: each request's name passes here.

    :raises RequestError: it is missing, or no name that a VM can have.
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
    """Return a number.

    :raises RequestError: it is missing, no number, or out of bounds.
    """
    value = request.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError("bad-request", f"'{key}' must be a number")
    if not least <= value <= most:
        raise RequestError("bad-request", f"'{key}' must be between {least:g} and {most:g}")
    return value


def boolean_field(request: dict[str, Any], key: str) -> bool:
    """Return whether a flag is set.

    :raises RequestError: it is missing, or neither true nor false.
    """
    value = request.get(key)
    if not isinstance(value, bool):
        raise RequestError("bad-request", f"'{key}' must be true or false")
    return value


def names_field(request: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return a list of names, or the default if there is none.

    :raises RequestError: it is no list, or there are too many.
    """
    value = request.get(key)
    if value is None:
        return default
    if (
        not isinstance(value, list)
        or len(value) > MAX_NAMES
        or not all(
            isinstance(i, str) and 0 < len(i) <= MAX_NAME_CHARS and is_utf8(i) for i in value
        )
    ):
        raise RequestError("bad-request", f"'{key}' must be a list of at most {MAX_NAMES} names")
    return tuple(value)


def whole_number(request: dict[str, Any], key: str) -> int:
    """Return a number that is not negative, without its fraction.

    :raises RequestError: it is missing, or no such number.
    """
    return int(number_field(request, key, 0, 2**62))


def number_between(least: float, most: float) -> Callable[[dict[str, Any], str], float]:
    """Return a check for a number within bounds."""
    return lambda request, key: number_field(request, key, least, most)


def names_or(default: tuple[str, ...]) -> Callable[[dict[str, Any], str], tuple[str, ...]]:
    """Return a check for a list of names that may be missing."""
    return lambda request, key: names_field(request, key, default)


def optional(
    check: Callable[[dict[str, Any], str], _T],
) -> Callable[[dict[str, Any], str], _T | None]:
    """Return a check that allows the value to be missing or null: it is None then."""
    return lambda request, key: None if request.get(key) is None else check(request, key)


def is_about(request: dict[str, Any], found: Domain | ActivationRecord) -> bool:
    """Return whether a checked request is about a domain: by VM name, and UUID or number."""
    vm, ident = request.get("vm"), request.get("domain")
    name = found.name if isinstance(found, Domain) else found.vm
    return vm in (None, name) and ident in (None, found.uuid, str(found.domid))


def no_such_vm_error(vm: str) -> RequestError:
    """Return the error for a VM that does not run here."""
    return RequestError("no-such-vm", f"no VM named {vm} runs on this host")
