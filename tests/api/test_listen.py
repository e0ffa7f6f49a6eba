# SPDX-License-Identifier: Apache-2.0
"""One switch per socket path, whatever became of the one before."""

from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys

import pytest

from vswitch.control.api.listen import listen
from vswitch.model import Refused

HOLDER = """
import sys, time
from vswitch.control.api.listen import listen
held = listen(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "vswitch.sock")


def hold_in_another_process(path: str) -> subprocess.Popen:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_socket_is_for_its_owner_alone(path):
    listener = listen(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    listener.close()


@pytest.mark.root
def test_a_group_may_be_let_in(path):
    group = grp.getgrnam("daemon")
    listener = listen(path, "daemon")
    info = os.stat(path)
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o660, group.gr_gid)
    listener.close()


def test_an_unknown_group_is_refused_and_leaves_nothing(path):
    with pytest.raises(Refused, match="no group nobody-has-this"):
        listen(path, "nobody-has-this")
    assert not os.path.exists(path)


def test_a_missing_folder_is_made(tmp_path):
    listener = listen(str(tmp_path / "run" / "vswitch" / "vswitch.sock"))
    listener.close()


def test_closing_gives_the_path_up(path):
    listen(path).close()
    assert not os.path.exists(path)
    listen(path).close()


def test_a_live_switch_is_not_pushed_aside(path):
    holder = hold_in_another_process(path)
    try:
        with pytest.raises(Refused, match=rf"another switch \(pid {holder.pid}\) serves {path}") as refusal:
            listen(path)
        assert refusal.value.status == 409
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    finally:
        holder.kill()
        holder.wait()


def test_the_socket_of_a_dead_switch_is_replaced(path):
    holder = hold_in_another_process(path)
    holder.kill()
    holder.wait()
    assert os.path.exists(path)
    listen(path).close()


def test_a_foreign_listener_is_not_pushed_aside(path):
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(path)
        foreign.listen()
        with pytest.raises(Refused, match=r"another program .* listens"):
            listen(path)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)


def test_what_is_no_socket_is_never_removed(path):
    with open(path, "w") as file:
        file.write("mine")
    with pytest.raises(Refused, match="is no socket"):
        listen(path)
    with open(path) as file:
        assert file.read() == "mine"


def test_a_symlink_is_not_followed_to_be_removed(path, tmp_path):
    (tmp_path / "target").write_text("mine")
    os.symlink(tmp_path / "target", path)
    with pytest.raises(Refused, match="is no socket"):
        listen(path)
    assert (tmp_path / "target").exists()


def test_a_path_too_long_for_the_kernel_is_refused_in_words(tmp_path):
    with pytest.raises(Refused, match="choose a shorter one"):
        listen(str(tmp_path / ("x" * 120)))


def test_a_refused_start_can_be_tried_again(path):
    with open(path, "w"):
        pass
    with pytest.raises(Refused):
        listen(path)
    os.unlink(path)
    listen(path).close()
