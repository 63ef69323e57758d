# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands of ``vesper`` have."""

from __future__ import annotations

import argparse

__all__ = ["add_json_option", "add_service_option"]


def add_json_option(command: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    command.add_argument(
        "--json", action="store_true", help="write JSON for programs (docs/api.md)"
    )


def add_service_option(command: argparse.ArgumentParser) -> None:
    """Add ``--service``."""
    command.add_argument(
        "--service", action="append", metavar="NAME",
        help="process name of a service; repeatable (default: the services of the VM's resource)",
    )  # fmt: skip
