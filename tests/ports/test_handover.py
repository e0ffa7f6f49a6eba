# SPDX-License-Identifier: Apache-2.0
"""Descriptors handed to the switch under a token, by clients of every kind."""
import asyncio
import contextlib
import errno
import json
import os
import resource
import secrets
import socket
import stat
import struct
import threading
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from throwaway import STRANGER, elsewhere, open_descriptors

from vswitch.model import Refused
from vswitch.ports import handover
from vswitch.ports.handover import DESCRIPTORS, TokenServer, offer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
DEADLINE_S = 10.0


@pytest.fixture(params=sorted(LOOPS))
def runner(request):
    """One of the event loops; nothing may go wrong behind its back."""
    problems = []
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: problems.append(context))
        yield runner
    assert problems == []


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "vswitch.sock.fd")


@contextlib.asynccontextmanager
async def serving(path: str, uid: int | None = None):
    server = TokenServer(path, os.getuid() if uid is None else uid)
    server.start(asyncio.get_running_loop())
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def pipes(count: int):
    """That many descriptors to hand over; written to, so that each is known again by what it says."""
    reading = []
    for number in range(count):
        out, into = os.pipe()
        os.write(into, f"pipe {number}".encode())
        os.close(into)
        reading.append(out)
    try:
        yield reading
    finally:
        for fd in reading:
            os.close(fd)


def said(fds: list[int]) -> list[str]:
    """What adopted pipes say; they are closed."""
    words = []
    for fd in fds:
        words.append(os.read(fd, 100).decode())
        os.close(fd)
    return words


async def until(probe, what: str):
    """Let the server work until `probe` is true."""
    give_up_at = asyncio.get_running_loop().time() + DEADLINE_S
    while not probe():
        assert asyncio.get_running_loop().time() < give_up_at, f"never happened: {what}"
        await asyncio.sleep(0.002)


async def ask(path: str, body: bytes, fds: list[int]) -> str | None:
    """Send any message and return the error of the answer; "" if the connection was closed without one."""

    def exchange():
        with connected(path) as connection:
            with contextlib.suppress(BrokenPipeError):
                if fds:
                    socket.send_fds(connection, [body], fds)
                else:
                    connection.send(body)
            answer = handover._answer_to(connection)
            return json.loads(answer)["error"] if answer else ""

    return await asyncio.to_thread(exchange)


def connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(DEADLINE_S)
    connection.connect(path)
    return connection


def message(token: str | None = None) -> bytes:
    return json.dumps({"token": token or "7d" * 16}).encode()


# ---- the ordinary way


def test_descriptors_arrive_in_order_under_their_token(runner, path):
    async def scenario():
        async with serving(path) as server:
            with pipes(3) as fds:
                token = await asyncio.to_thread(offer, path, fds)
                claimed = server.claim(token)
            assert not any(os.get_inheritable(fd) for fd in claimed)
            return said(claimed)

    assert runner.run(scenario()) == ["pipe 0", "pipe 1", "pipe 2"]


def test_a_client_that_comes_while_the_switch_starts_waits(runner, path):
    async def scenario():
        server = TokenServer(path, os.geteuid())
        server.listen()
        with pipes(1) as fds:
            offering = asyncio.create_task(asyncio.to_thread(offer, path, fds))
            done, _ = await asyncio.wait([offering], timeout=0.05)
            assert not done
            server.start(asyncio.get_running_loop())
            claimed = server.claim(await offering)
        server.close()
        return said(claimed)

    assert runner.run(scenario()) == ["pipe 0"]


def test_many_offers_at_once_are_told_apart(runner, path):
    async def scenario():
        async with serving(path) as server:
            with pipes(30) as fds:
                tokens = await asyncio.gather(*(asyncio.to_thread(offer, path, [fd]) for fd in fds))
                return [said(server.claim(token)) for token in reversed(tokens)]

    assert runner.run(scenario()) == [[f"pipe {number}"] for number in reversed(range(30))]


def test_a_token_works_once(runner, path, monkeypatch):
    monkeypatch.setattr(handover, "UNCLAIMED_S", 0.05)

    async def scenario():
        async with serving(path) as server:
            with pipes(2) as fds:
                token = await asyncio.to_thread(offer, path, fds[:1])
                claimed = server.claim(token)
                with pytest.raises(Refused, match="no descriptors wait under this token"):
                    server.claim(token)
                await asyncio.to_thread(offer, path, fds[1:])
            await until(lambda: not server._deposits, "a later one has expired")
            assert said(claimed) == ["pipe 0"]

    runner.run(scenario())


def test_a_token_in_use_is_refused_and_the_first_descriptors_stay(runner, path):
    async def scenario():
        token = secrets.token_hex(16)
        async with serving(path) as server:
            with pipes(2) as fds:
                assert await ask(path, message(token), fds[:1]) is None
                assert "under this token already" in await ask(path, message(token), fds[1:])
            return said(server.claim(token))

    assert runner.run(scenario()) == ["pipe 0"]


def test_what_nobody_claims_is_closed(runner, path, monkeypatch):
    monkeypatch.setattr(handover, "UNCLAIMED_S", 0.05)

    async def scenario():
        async with serving(path) as server:
            out, into = os.pipe()
            token = await asyncio.to_thread(offer, path, [out])
            os.close(out)
            os.write(into, b"still open")
            await until(lambda: is_broken(into), "the server closed its copy")
            os.close(into)
            with pytest.raises(Refused, match="no descriptors wait"):
                server.claim(token)

    runner.run(scenario())


def is_broken(into: int) -> bool:
    try:
        os.write(into, b"?")
    except BrokenPipeError:
        return True
    return False


# ---- clients of other kinds


def test_another_user_is_turned_away(runner, path):
    async def scenario():
        async with serving(path, uid=os.getuid() + 1):
            with pipes(1) as fds, pytest.raises(Refused) as caught:
                await asyncio.to_thread(offer, path, fds)
            return caught.value

    refusal = runner.run(scenario())
    assert f"belongs to uid {os.getuid() + 1}, not to uid {os.getuid()}" in str(refusal)
    assert refusal.status == 403


@pytest.mark.parametrize(
    ("body", "count", "words"),
    [
        (message(), 0, "brought no descriptors"),
        (message("0" * 31), 1, "32 hexadecimal digits"),
        (message("G" * 32), 1, "32 hexadecimal digits"),
        (message("0" * 32 + "\n"), 1, "32 hexadecimal digits"),
        (b"{}", 1, "token"),
        (b'{"token": 5}', 1, "token"),
        (b'{"token": "' + b"0" * 32 + b'", "more": 1}', 1, "more"),
        (b"\xff\xfe", 1, "the message is not"),
        (b"[" * 1000, 1, "the message is not"),
        (b'"' + b"x" * 5000 + b'"', 1, "longer than 1024 bytes"),
        (bytes(150000), 1, "longer than 1024 bytes"),
        (message(), DESCRIPTORS + 1, f"more than {DESCRIPTORS} descriptors"),
        (message(), 200, f"more than {DESCRIPTORS} descriptors"),
    ],
)
def test_a_message_that_is_wrong_is_answered_and_its_descriptors_are_closed(runner, path, body, count, words):
    async def scenario():
        async with serving(path):
            with pipes(1) as (fd,):
                await ask(path, b"warm up", [fd])
                before = open_descriptors()
                error = await ask(path, body, [fd] * count)
                await until(lambda: open_descriptors() == before, "everything was closed")
            return error

    error = runner.run(scenario())
    assert words in error
    assert "\n" not in error


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=1100), st.integers(0, 10)), min_size=1, max_size=8))
def test_any_bytes_with_any_descriptors_leave_nothing_open(tmp_path, messages):
    path = str(tmp_path / f"{secrets.token_hex(4)}.fd")

    async def scenario():
        async with serving(path) as server:
            before = open_descriptors()
            for body, count in messages:
                await ask(path, body, [0] * count)
            await until(lambda: open_descriptors() == before, "everything was closed")
            assert server._deposits == {}
            with pipes(1) as fds:
                token = await asyncio.to_thread(offer, path, fds)
            assert said(server.claim(token)) == ["pipe 0"]

    asyncio.run(scenario())


def test_a_client_that_goes_without_a_word_leaves_nothing(runner, path):
    async def scenario():
        async with serving(path) as server:
            connected(path).close()
            half_closed = connected(path)
            half_closed.shutdown(socket.SHUT_WR)
            with pipes(1) as fds:
                said(server.claim(await asyncio.to_thread(offer, path, fds)))  # accepted after those two
            await until(lambda: server._connections == {}, "both were hung up on")
            half_closed.close()

    runner.run(scenario())


def test_a_client_that_says_nothing_is_hung_up_on(runner, path, monkeypatch):
    monkeypatch.setattr(handover, "UNCLAIMED_S", 0.05)

    async def scenario():
        async with serving(path) as server:
            silent = connected(path)
            await until(lambda: server._connections, "it was accepted")
            await until(lambda: not server._connections, "it was hung up on")
            assert silent.recv(100) == b""
            silent.close()

    runner.run(scenario())


def test_a_client_that_sends_and_leaves_is_served(runner, path):
    async def scenario():
        token = secrets.token_hex(16)
        async with serving(path) as server:
            with pipes(1) as fds, connected(path) as connection:
                socket.send_fds(connection, [message(token)], fds)
            await until(lambda: server._deposits, "the descriptors came")
            return said(server.claim(token))

    assert runner.run(scenario()) == ["pipe 0"]


def test_a_second_message_on_a_connection_is_not_taken(runner, path):
    async def scenario():
        async with serving(path) as server:
            with pipes(1) as fds, connected(path) as connection:
                socket.send_fds(connection, [message("a" * 32)], fds)
                socket.send_fds(connection, [message("b" * 32)], fds)
                await until(lambda: server._deposits and not server._connections, "the first came")
                assert list(server._deposits) == ["a" * 32]

    runner.run(scenario())


# ---- caps


def test_too_many_connections_are_refused_and_those_there_stay(runner, path, monkeypatch):
    monkeypatch.setattr(handover, "CONNECTIONS", 3)

    async def scenario():
        async with serving(path) as server:
            silent = [connected(path) for _ in range(3)]
            await until(lambda: len(server._connections) == 3, "all were accepted")
            with pipes(1) as fds:
                with pytest.raises(Refused, match="3 clients are handing over descriptors already"):
                    await asyncio.to_thread(offer, path, fds)
                socket.send_fds(silent[0], [message("a" * 32)], fds)
                await until(lambda: server._deposits, "one that was there is served")
                await asyncio.to_thread(offer, path, fds)
            for connection in silent:
                connection.close()

    runner.run(scenario())


def test_too_many_unclaimed_tokens_are_refused_and_those_there_stay(runner, path, monkeypatch):
    monkeypatch.setattr(handover, "PENDING", 3)

    async def scenario():
        async with serving(path) as server:
            with pipes(1) as fds:
                tokens = [await asyncio.to_thread(offer, path, fds) for _ in range(3)]
                with pytest.raises(Refused, match="3 sets of descriptors wait to be claimed already"):
                    await asyncio.to_thread(offer, path, fds)
                said(server.claim(tokens[0]))
                await asyncio.to_thread(offer, path, fds)

    runner.run(scenario())


def without_descriptors_to_spare(path: str, loop: str):
    """A server at its limit of open files: it neither spins nor dies, and serves when there is room again."""
    turns = 0

    async def scenario():
        nonlocal turns
        async with serving(path) as server:
            accept = server._on_connection

            def counted():
                nonlocal turns
                turns += 1
                accept()

            server._on_connection = counted
            loop = asyncio.get_running_loop()
            loop.remove_reader(server._listener.fileno())
            loop.add_reader(server._listener.fileno(), counted)
            connection = connected(path)
            out, into = os.pipe()
            os.write(into, b"pipe 0")
            socket.send_fds(connection, [message("a" * 32)], [out])
            hogs = []
            with contextlib.suppress(OSError):
                while True:
                    hogs.append(os.dup(0))
            await asyncio.sleep(0.15)
            assert not server._connections
            spun = turns
            for fd in hogs:
                os.close(fd)
            await until(lambda: server._deposits, "it was served after all")
            connection.close()
            return spun, said(server.claim("a" * 32))

    few = max(map(int, os.listdir("/proc/self/fd"))) + 50  # more than earlier tests have left to the collector
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(scenario())


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_running_out_of_descriptors_is_survived_without_spinning(path, loop):
    spun, words = elsewhere(without_descriptors_to_spare, path, loop)
    assert words == ["pipe 0"]
    assert spun <= 2


def with_room_for_some(path: str):
    """More descriptors come than the process may open: those that fit are closed, and the sender is told."""

    async def scenario():
        async with serving(path) as server:
            loop = asyncio.get_running_loop()
            connection = connected(path)
            connection.setblocking(False)
            socket.send_fds(connection, [message("a" * 32)], [0] * DESCRIPTORS)
            hogs = []
            with contextlib.suppress(OSError):
                while True:
                    hogs.append(os.dup(0))
            for fd in hogs[-3:]:
                os.close(fd)  # one for the connection, two for the descriptors
            open_before = len(hogs) - 3
            answer = await loop.sock_recv(connection, 1000)
            for fd in hogs[:-3]:
                os.close(fd)
            connection.close()
            return json.loads(answer)["error"], server._deposits == {}, open_before

    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    result = asyncio.run(scenario())
    left = len(open_descriptors())
    return result[0], result[1], left


def test_descriptors_that_do_not_fit_are_closed_and_the_sender_is_told(path):
    baseline = elsewhere(lambda: len(open_descriptors()))
    error, nothing_kept, left = elsewhere(with_room_for_some, path)
    assert "more than the switch may open" in error
    assert nothing_kept
    assert left == baseline


# ---- beginning and end


@pytest.mark.root
def test_somebody_else_is_told_whose_switch_takes_descriptors(runner, path):
    for folder in Path(path).parents[:-2]:  # all below /tmp
        folder.chmod(0o755)

    said = r"captures need the user who runs the switch \(root: `sudo vswitch …`\); others may look and change$"

    async def scenario():
        async with serving(path):
            with pipes(1) as fds, pytest.raises(Refused, match=said):
                await asyncio.to_thread(elsewhere, offer, path, fds, before=lambda: os.setresuid(*[STRANGER] * 3))

    runner.run(scenario())


def test_the_socket_is_the_users_own_from_the_first_moment(runner, path):
    before = os.umask(0)

    async def scenario():
        async with serving(path):
            return stat.S_IMODE(os.stat(path).st_mode)

    try:
        assert runner.run(scenario()) == 0o600
    finally:
        os.umask(before)


def test_a_socket_left_by_a_dead_switch_is_replaced_and_removed_at_the_end(runner, path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(path)

    async def scenario():
        async with serving(path):
            with pipes(1) as fds:
                await asyncio.to_thread(offer, path, fds)

    runner.run(scenario())
    assert not os.path.exists(path)


def test_a_file_that_is_no_socket_is_not_removed(runner, path):
    with open(path, "w") as precious:
        precious.write("precious")

    async def scenario():
        with pytest.raises(Refused, match="is no socket"):
            TokenServer(path, os.getuid()).start(asyncio.get_running_loop())

    runner.run(scenario())
    assert os.path.getsize(path) == 8


@pytest.mark.parametrize("place", ["/nonexistent/switch.fd", "/tmp/" + "x" * 200])
def test_a_place_where_no_socket_can_be_is_refused(runner, place):
    async def scenario():
        before = open_descriptors()
        with pytest.raises(Refused, match="cannot listen at"):
            TokenServer(place, os.getuid()).start(asyncio.get_running_loop())
        assert open_descriptors() == before

    runner.run(scenario())


def test_closing_closes_everything_and_may_be_repeated(runner, path):
    async def scenario():
        before = open_descriptors()
        async with serving(path) as server:
            silent = connected(path)
            await until(lambda: server._connections, "it was accepted")
            with pipes(1) as fds:
                await asyncio.to_thread(offer, path, fds)
            server.close()
            server.close()
            silent.close()
        await asyncio.sleep(0)
        assert open_descriptors() == before

    async def with_warm_threads():
        await asyncio.to_thread(os.getpid)
        await scenario()

    runner.run(with_warm_threads())


# ---- the client


@pytest.mark.parametrize("leftover", [False, True])
def test_without_a_switch_the_client_says_so(path, leftover):
    if leftover:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(path)
    with pipes(1) as fds, pytest.raises(Refused, match=f"cannot hand descriptors to the switch at {path}"):
        offer(path, fds)


def test_a_switch_that_answers_nothing_is_not_awaited_for_ever(path, monkeypatch):
    monkeypatch.setattr(handover, "ANSWER_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
        mute.bind(path)
        mute.listen()
        with pipes(1) as fds, pytest.raises(Refused, match="gave no answer"):
            offer(path, fds)


def test_a_switch_that_hangs_up_is_reported(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
        rude.bind(path)
        rude.listen()
        thread = threading.Thread(target=lambda: rude.accept()[0].close())
        thread.start()
        with pipes(1) as fds, pytest.raises(Refused, match="gave no answer"):
            offer(path, fds)
        thread.join()


def test_a_closed_descriptor_is_the_clients_own_mistake(runner, path):
    async def scenario():
        async with serving(path):
            with pytest.raises(Refused, match=os.strerror(errno.EBADF)):
                await asyncio.to_thread(offer, path, [9999])

    runner.run(scenario())


def test_the_client_needs_no_asyncio():
    """`vswitch` starts fast: what it imports to hand over descriptors has no event loop in it."""
    import subprocess
    import sys

    code = "import sys, vswitch.ports.handover; print('asyncio' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "False\n"


def test_the_credentials_layout_is_the_kernels():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        credentials = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, handover.UCRED.size)
        assert struct.unpack("iII", credentials) == (os.getpid(), os.getuid(), os.getgid())
