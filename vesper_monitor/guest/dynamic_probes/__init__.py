# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic probes: an operator defines one in a line, without a compiler.

In commands and JSON a dynamic probe is a *point*. ``syntax.py`` parses the line.
``program.py`` makes the parameters of the module ``probe_point`` from it.
``record.py`` decodes what that module records.
"""
