# SPDX-License-Identifier: GPL-2.0-or-later
"""One vesperd, a thousand guests: what they cost, and how late events are."""
