# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd: the process, its socket, the sessions it keeps."""
