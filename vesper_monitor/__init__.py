# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's control layer on the host: vesperd, the vesper command, the OCF library."""

__version__ = "0.3.0"
