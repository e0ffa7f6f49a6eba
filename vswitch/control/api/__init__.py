# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of the switch: routes (what can be asked), server, client, and the OpenAPI document made from
the routes.

Nothing is imported here, so that `vswitch.control.api.client` costs the command line no more than itself.
"""
