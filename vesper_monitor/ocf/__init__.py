# SPDX-License-Identifier: GPL-2.0-or-later
"""The OCF agents: what Pacemaker runs. Standard library only, quick to start."""
