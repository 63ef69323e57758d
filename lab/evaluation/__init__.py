# SPDX-License-Identifier: GPL-2.0-or-later
"""The original evaluation, done again: how soon is a fault in the guest acted upon?"""
