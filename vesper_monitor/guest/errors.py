# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of a session: a request to the guest failed, or the session cannot take it now."""

from __future__ import annotations

from vesper_monitor.util.errors import VesperError

__all__ = ["SessionError"]


class SessionError(VesperError):
    """A request to the guest failed.

    :ivar code: of docs/api.md: ``no-image``, ``no-such-probe``, ``not-active``,
        ``bad-request``, ``guest``, ``timeout``.
    :ivar errno: the guest kernel's, positive, if the guest refused the request.
    """

    def __init__(self, text: str, *, code: str, errno: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.errno = errno
