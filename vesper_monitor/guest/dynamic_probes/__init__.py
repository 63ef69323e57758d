# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic probes: an operator defines one in a line, without a compiler.

``syntax.py`` parses the line.  ``program.py`` makes the parameters of the module
``probe_point`` from it.  ``record.py`` decodes what that module records, and
``store.py`` keeps the definitions in points.json.
"""
