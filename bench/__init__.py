# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmarks: measured against something, side by side in one run."""
