# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated clusters with real hypervisors: for the demo, the tests, and to look around."""
