# SPDX-License-Identifier: Apache-2.0
"""The switches that are measured, one file each."""
