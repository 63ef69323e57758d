# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs: clusters on one machine, for the demo, the tests, and to try things out."""
