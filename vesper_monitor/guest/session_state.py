# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a guest session, and of a probe in it.

::

    WAITING ──frontend──► CONNECTING ──HELLO──► ACTIVE ──┐
       ▲  ▲                 │     │               │      │ closed, or
       │  └──── retry ──────┘     └─► UNFIT ──┐   │      │ the domain ended
       └────────────── link lost ─────────────┴───┘      ▼
                                                 CLOSING ──► CLOSED
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from vesper_monitor.guest.errors import SessionError

__all__ = ["ProbeState", "ProbeStatus", "SessionState", "StateError", "require_state"]


class SessionState(enum.Enum):
    WAITING = "waiting"  #: for the guest's frontend
    CONNECTING = "connecting"  #: the link is there, HELLO under way
    ACTIVE = "active"  #: probes are loaded, and records are read
    UNFIT = "unfit"  #: the guest speaks another version or nonsense; tried again later
    CLOSING = "closing"
    CLOSED = "closed"

    def may_become(self, state: SessionState) -> bool:
        """Return whether a session may change to that state: one that closes only closes."""
        if self is SessionState.CLOSED:
            return False
        return self is not SessionState.CLOSING or state is SessionState.CLOSED


class ProbeState(enum.Enum):
    WANTED = "wanted"  #: not loaded (yet)
    LOADING = "loading"
    COLLECTING = "collecting"
    UNLOADING = "unloading"
    FAILED = "failed"  #: ``error`` says why; tried again later


@dataclass
class ProbeStatus:
    """The state of one probe in one guest, for people."""

    name: str
    state: ProbeState = ProbeState.WANTED
    params: str = ""
    cpus: int = 0
    records: int = 0
    lost: int = 0
    error: str | None = None


class StateError(SessionError):
    """A method was called in a state in which it does not work.

    :ivar state: in which the session is.
    :ivar needed: in which the method works.
    """

    def __init__(self, text: str, state: SessionState, needed: SessionState) -> None:
        super().__init__(text, code="not-active")
        self.state = state
        self.needed = needed


class _HasState(Protocol):
    @property
    def state(self) -> SessionState: ...

    def describe_obstacle(self) -> str: ...


_S = TypeVar("_S", bound=_HasState)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def require_state(
    needed: SessionState, action: str
) -> Callable[[Callable[Concatenate[_S, _P], _T]], Callable[Concatenate[_S, _P], _T]]:
    """Declare in which state a method works; in any other the call raises a StateError.

    :param action: what the method does, for the error text: "load a probe".
    """

    def decorate(method: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
        @functools.wraps(method)
        def checked(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            if self.state is not needed:
                raise StateError(
                    f"{self.describe_obstacle()}; cannot {action}: the session is "
                    f"{self.state.value}, but must be {needed.value}",
                    self.state,
                    needed,
                )
            return method(self, *args, **kwargs)

        return checked

    return decorate
