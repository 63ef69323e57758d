# SPDX-License-Identifier: GPL-2.0-or-later
"""The evaluation: how soon does the cluster act on a fault in the guest?"""
