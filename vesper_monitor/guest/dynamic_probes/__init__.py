# SPDX-License-Identifier: GPL-2.0-or-later
"""Points: probes that an operator defines in a line, without a compiler.

``syntax.py`` reads the line, ``program.py`` makes the parameters of the module
``probe_point`` of it and gives its image another name, ``record.py`` reads what
that module records.
"""
