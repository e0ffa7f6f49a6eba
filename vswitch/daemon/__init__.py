# SPDX-License-Identifier: Apache-2.0
"""`vswitch-run`: puts the switch together and ties it to the system (options, logs, signals, systemd)."""
