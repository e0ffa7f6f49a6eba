# SPDX-License-Identifier: Apache-2.0
"""Where a switch is looked for when nobody says."""

from __future__ import annotations

import os

import pytest

from vswitch.control.api import places


@pytest.fixture
def user(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "VSWITCH_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_root_has_the_system_s_folders(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("VSWITCH_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    assert places.socket_path() == "/run/vswitch/vswitch.sock"
    assert places.state_dir() == "/var/lib/vswitch"
    assert places.config_path() == "/etc/vswitch/vswitch.toml"


def test_a_user_has_the_xdg_folders(user, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4242")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert places.socket_path() == "/run/user/4242/vswitch/vswitch.sock"
    assert places.state_dir() == "/s/vswitch"
    assert places.config_path() == "/c/vswitch/vswitch.toml"


def test_without_xdg_the_home_folder_serves(user, tmp_path):
    assert places.state_dir() == f"{tmp_path}/.local/state/vswitch"
    assert places.config_path() == f"{tmp_path}/.config/vswitch/vswitch.toml"
    assert places.socket_path() == f"{tmp_path}/.local/state/vswitch/vswitch.sock"


def test_vswitch_socket_goes_first(user, monkeypatch):
    monkeypatch.setenv("VSWITCH_SOCKET", "/somewhere/else.sock")
    assert places.socket_path() == "/somewhere/else.sock"


@pytest.mark.parametrize("path", ["", "a\0b", "/" + "x" * 104])
def test_a_path_that_no_socket_can_have_is_said(path):
    assert places.socket_path_problem(path)


def test_the_longest_path_leaves_room_for_the_descriptors_socket():
    assert places.socket_path_problem("/" + "x" * 103) is None
