# SPDX-License-Identifier: Apache-2.0
"""What is said to a service manager, seen by a fake one: a datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from vswitch.daemon.notify import Notifier, take_descriptors, take_notifier, take_watchdog_interval_s


@pytest.fixture
def manager(tmp_path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        receiving.settimeout(5)
        yield receiving


@pytest.fixture
def notifier(manager) -> Iterator[Notifier]:
    speaking = Notifier(manager.getsockname())
    yield speaking
    speaking.close()


def heard(manager: socket.socket) -> dict[str, str]:
    """The next datagram's assignments."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_ready_comes_with_its_status_in_one_datagram(notifier, manager):
    notifier.ready("2 networks")
    assert heard(manager) == {"READY": "1", "STATUS": "2 networks"}


def test_a_status_cannot_bring_assignments_of_its_own(notifier, manager):
    notifier.status("x\nMAINPID=1")
    assert heard(manager) == {"STATUS": "x MAINPID=1"}


def test_reloading_says_when_in_the_same_datagram(notifier, manager):
    notifier.reloading()
    said = heard(manager)
    assert said["RELOADING"] == "1"
    assert int(said["MONOTONIC_USEC"]) > 0


def test_an_abstract_address_is_understood():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(b"\0vswitch-test-%d" % os.getpid())
        receiving.settimeout(5)
        notifier = Notifier(f"@vswitch-test-{os.getpid()}")
        notifier.watchdog()
        assert heard(receiving) == {"WATCHDOG": "1"}
        notifier.close()


def test_a_stored_descriptor_travels_with_its_name(notifier, manager, tmp_path):
    path = tmp_path / "kept"
    path.write_text("kept")
    with path.open() as file:
        notifier.store("tap.1234", file.fileno())
    message, fds, _, _ = socket.recv_fds(manager, 4096, 8)
    assert message == b"FDSTORE=1\nFDNAME=tap.1234"
    assert os.read(fds[0], 10) == b"kept"
    os.close(fds[0])


def test_a_forgotten_descriptor_is_named(notifier, manager):
    notifier.forget("tap.1234")
    assert heard(manager) == {"FDSTOREREMOVE": "1", "FDNAME": "tap.1234"}


def test_without_a_manager_nothing_happens():
    notifier = take_notifier({})
    assert not notifier.managed
    notifier.ready("up")
    notifier.store("x", 0)


def test_a_manager_that_has_gone_is_a_warning_not_an_error(notifier, manager, caplog):
    os.unlink(manager.getsockname())
    notifier.watchdog()
    assert "does not take WATCHDOG=1" in caplog.text


def test_the_variable_is_taken_away_so_that_no_program_of_ours_speaks_for_us(manager):
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    assert take_notifier(environ).managed
    assert environ == {}


@pytest.mark.parametrize(
    ("interval_us", "pid", "expected_s"),
    [
        ("20000000", "7", 10.0),
        ("20000000", "", 10.0),
        ("20000000", "8", None),
        ("0", "7", None),
        ("soon", "7", None),
        ("", "", None),
    ],
)
def test_the_watchdog_is_fed_at_twice_the_rate_it_asks_for_if_it_watches_us(interval_us, pid, expected_s):
    environ = {"WATCHDOG_USEC": interval_us, "WATCHDOG_PID": pid}
    assert take_watchdog_interval_s(environ, 7) == expected_s
    assert environ == {}


def test_descriptors_come_back_under_their_names_and_are_closed_on_exec():
    # Descriptors 3 and 4 belong to somebody else in this process: a child has them free.
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 3)
            os.dup2(os.open("/dev/zero", os.O_RDONLY), 4)
            environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "tap.b:tap.a", "PATH": "/bin"}
            taken = take_descriptors(environ, 7)
            assert [tuple(t) for t in taken] == [("tap.b", 3), ("tap.a", 4)]
            assert not os.get_inheritable(3)
            assert not os.get_inheritable(4)
            assert environ == {"PATH": "/bin"}
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {"LISTEN_PID": "7", "LISTEN_FDS": "many"}]
)
def test_descriptors_for_another_process_are_not_touched(environ):
    assert take_descriptors(environ, 7) == []
