# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a fault, whose it is, how it is kept, and how Pacemaker hears of it."""
