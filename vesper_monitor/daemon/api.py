# SPDX-License-Identifier: GPL-2.0-or-later
"""The requests of docs/api.md: finds the operation, and checks who asks for what.

The operations are in three modules, by who asks: ``agent_requests.py``,
``reader_requests.py`` and ``operator_requests.py``.  Each has a table with the
name, the handler, the right and the arguments of its operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vesper_monitor.daemon.connection import Connection
from vesper_monitor.daemon.request import Operation
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.daemon.transports import NoTransportError
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.hypervisor.transport import TransportError
from vesper_monitor.journal.journal import JournalError

__all__ = ["Api"]

#: Characters of an unknown operation's name that the answer quotes.
_QUOTED_CHARS = 40


class Api:
    """A table of operations.

    :ivar operations: by name.
    """

    def __init__(self, *tables: Iterable[Operation]) -> None:
        self.operations = {operation.name: operation for table in tables for operation in table}

    async def handle_request(self, connection: Connection, request: dict[str, Any]) -> None:
        """Serve one request.

        :raises RequestError: it is answered with an error.
        """
        name = request.get("op")
        operation = self.operations.get(name) if isinstance(name, str) else None
        if operation is None:
            raise RequestError("bad-request", f"unknown op {str(name)[:_QUOTED_CHARS]!r}")
        checked = operation.check_arguments(connection, request)
        try:
            await operation.handler(connection, checked)
        except NoTransportError as error:
            raise RequestError("no-transport", str(error)) from error
        except SessionError as error:
            more = {} if error.errno is None else {"errno": error.errno}
            raise RequestError(error.code, str(error), **more) from error
        except TransportError as error:
            raise RequestError("timeout", str(error)) from error
        except JournalError as error:
            raise RequestError("internal", str(error)) from error
