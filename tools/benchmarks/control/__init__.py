# SPDX-License-Identifier: Apache-2.0
"""What `tools/bench control` measures: how quickly containers come and go, and how quickly names are told."""
