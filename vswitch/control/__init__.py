# SPDX-License-Identifier: Apache-2.0
"""The control plane: what should exist (model, store), what exists (inventory), how one becomes the other."""
