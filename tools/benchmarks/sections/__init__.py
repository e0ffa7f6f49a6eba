# SPDX-License-Identifier: Apache-2.0
"""What `tools/bench switch` measures beside the table. A section starts its own switches and stops them."""
