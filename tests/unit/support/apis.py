# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd's api without a vesperd."""

from __future__ import annotations

from typing import Any

from vesper_monitor.daemon.agent_requests import AgentRequests
from vesper_monitor.daemon.api import Api
from vesper_monitor.daemon.operator_requests import OperatorRequests
from vesper_monitor.daemon.reader_requests import ReaderRequests
from vesper_monitor.daemon.request import Right


class Nobody:
    """In the place of a part of vesperd: it must not be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


def make_api_of_nobody() -> Api:
    """Return the tables of operations; to serve one fails."""
    part: Any = Nobody()
    agents = AgentRequests(part, part, part, part, part, part, part)
    readers = ReaderRequests(part, part, part, part, part, part)
    operators = OperatorRequests(
        part, part, part, part, part, part, part, part, activate_timeout=1.0
    )
    return Api(agents.operations, readers.operations, operators.operations)


def list_root_operations() -> list[str]:
    """Return the names of the operations that only root may ask for."""
    operations = make_api_of_nobody().operations.values()
    return [operation.name for operation in operations if operation.right is Right.ROOT]
