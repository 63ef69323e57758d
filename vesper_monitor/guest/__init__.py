# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest, seen from the host: session, C-chan, D-chan, events, probe images."""
