# SPDX-License-Identifier: Apache-2.0
"""The control plane: what should exist (model, store), what exists (networks, containers, addresses) and how one becomes the other.
"""
