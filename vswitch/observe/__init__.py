# SPDX-License-Identifier: Apache-2.0
"""Seeing what happens: captures as pcapng.
"""
