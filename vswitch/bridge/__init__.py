# SPDX-License-Identifier: Apache-2.0
"""The MAC table: which port of a network an address lives on. Compiled; only the dataplane's thread touches it.
"""
