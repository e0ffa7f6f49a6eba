# SPDX-License-Identifier: Apache-2.0
"""The attach helper's process: hands each request of the switch to a worker, and sees that it is answered.

It is forked from the switch before any thread exists there, because entering a user namespace takes a
single-threaded process, and a threaded program can only fork children that exec. It stays single-threaded,
enters nothing itself and holds no namespace: a request's descriptors are closed here as soon as a worker
has them.

    switch ─── channel ─── keeper ─── link ─── worker (enters, makes, configures) ─── answer on the channel
                             │  └──── link ─── worker …
                             └ deadline passed or worker died: kills it and answers in its place

A worker answers on the channel itself; a SOCK_SEQPACKET message is whole or absent, and the switch matches
answers to requests by id. A worker that was killed after it had answered yields a second answer, which the
switch ignores. A worker that dies anywhere leaves nothing behind: its TAP becomes persistent only in the
switch's hands. One idle worker is always kept ready, because forking costs more than the whole attachment
(2-5 ms against 2).

The keeper ends with the switch: by end of file on the channel, or by PDEATHSIG. Ctrl-C and the hang-up of a
terminal reach the whole foreground group, and a service manager's SIGTERM the whole service; it ignores
them, as the switch may need it until its own end.
"""
from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from typing import Literal, NoReturn

from vswitch.container._linux import set_parent_death_signal, set_process_name
from vswitch.ports import messages
from vswitch.ports.messages import Answer
from vswitch.ports.worker import HOME, MESSAGE_BYTES, work

REQUEST_TIMEOUT_S = 10.0  # an attach takes 2 ms, or as long as others hold the kernel's rtnl lock
WORKERS = 16  # alive at once, with any that the kernel keeps from dying; the switch asks for 4 at a time
IDLE_WORKERS = 2  # kept for the next requests; 3 MB of memory of their own each


@dataclass
class Worker:
    """A worker as the keeper sees it.

    idle      waits on its link
    busy      has request `request_id`, and until `kill_at` to answer it
    leaving   dismissed, or killed because it was late (then its request is answered); only its end is awaited
    """

    pid: int
    pidfd: int
    link: socket.socket
    state: Literal["idle", "busy", "leaving"] = "idle"
    request_id: int = 0
    kill_at: float = 0.0


def serve(fd: int) -> NoReturn:
    """The process's whole life, on its end of the channel; never returns."""
    status = 1
    try:
        fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)  # a parent without stdio may have made it one of those
        _settle(fd)
        from vswitch.ports import rtnl  # 0.2 s once, here, instead of in every worker

        rtnl.rehearse()
        gc.freeze()  # workers share these pages
        Keeper(socket.socket(fileno=fd)).run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _settle(fd: int) -> None:
    """Become a process of its own: signals, descriptors, working directory, name."""
    set_parent_death_signal(signal.SIGKILL)
    set_process_name("vswitch-attach")
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _drop_descriptors(keep=(2, fd))
    os.chdir("/")


def _drop_descriptors(keep: tuple[int, ...]) -> None:
    """Put /dev/null in the place of every descriptor that the parent left, except stderr and the channel.

    They are not closed, so that none of their numbers becomes one of ours: what the parent left in memory
    (objects with finalizers, libuv's fork handlers) still closes the numbers it knows.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for entry in os.listdir("/proc/self/fd"):
        if (inherited := int(entry)) not in keep:
            with contextlib.suppress(OSError):  # the one that listdir() itself had open
                os.fstat(inherited)
                os.dup2(null, inherited, inheritable=False)
    for standard in (0, 1):
        os.dup2(null, standard)


class Keeper:
    """Requests in, workers out, deadlines kept."""

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._workers: dict[int, Worker] = {}  # by pidfd
        self._links: dict[int, Worker] = {}  # by the descriptor of their link, while that is open
        self._poll = select.poll()

    def run(self) -> None:
        """Until the switch closes its end."""
        while True:
            self._be_prepared()
            room = self._idle() or len(self._workers) < WORKERS
            self._poll.register(self._channel, select.POLLIN if room else 0)
            for fd, events in self._poll.poll(self._patience_ms()):
                if fd in self._workers:
                    self._reap(self._workers[fd])
                elif fd in self._links:
                    self._on_link(self._links[fd])
                elif fd == self._channel.fileno() and (events & select.POLLHUP or not self._take()):
                    return
            self._kill_the_late()

    def _be_prepared(self) -> None:
        """Fork a worker for the next request, but not while one is under way and would feel it."""
        present = [worker for worker in self._workers.values() if worker.state != "leaving"]
        if not present and len(self._workers) < WORKERS:
            with contextlib.suppress(OSError):  # the next request will tell
                self._fork()

    def _idle(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.state == "idle"]

    def _fork(self) -> None:
        """One more worker, which has nothing of ours open but the channel and its own link."""
        keeper = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            for other in self._workers.values():
                os.close(other.pidfd)
                other.link.close()
            work(self._channel, theirs, keeper)
        theirs.close()
        worker = Worker(pid, os.pidfd_open(pid), ours)
        self._workers[worker.pidfd] = worker
        self._links[ours.fileno()] = worker
        self._poll.register(worker.pidfd, select.POLLIN)
        self._poll.register(ours, select.POLLIN)

    def _take(self) -> bool:
        """Hand the next request to an idle worker; False at the end of the channel."""
        obstacle = self._fork_if_needed()  # before the descriptors are here, lest it inherit them
        body, fds = messages.receive(self._channel)
        if not body:
            return False
        request_id = messages.decode_request(body).id
        if obstacle is None:
            self._hand_over(self._idle()[0], request_id, body, fds)
        else:
            self._answer_for(request_id, f"cannot start a process that enters containers: {obstacle}")
        for fd in fds:
            os.close(fd)
        return True

    def _fork_if_needed(self) -> str | None:
        """Have an idle worker; if that cannot be, why."""
        try:
            if not self._idle():
                self._fork()
        except OSError as error:
            return error.strerror
        return None

    def _hand_over(self, worker: Worker, request_id: int, body: bytes, fds: list[int]) -> None:
        """Send a worker the request, and give it until `kill_at`."""
        worker.state, worker.request_id = "busy", request_id
        worker.kill_at = time.monotonic() + REQUEST_TIMEOUT_S
        with contextlib.suppress(BrokenPipeError):  # it died while idle: _reap() will answer
            socket.send_fds(worker.link, [body], fds)

    def _on_link(self, worker: Worker) -> None:
        """A worker has answered and is home again or ends; or it has died, and soon its pidfd will tell."""
        try:
            message = worker.link.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            message = b""
        if message and worker.state == "busy":
            worker.state = "idle" if message == HOME else "leaving"
        if message != HOME or len(self._idle()) > IDLE_WORKERS:
            self._dismiss(worker)

    def _dismiss(self, worker: Worker) -> None:
        """Let a worker end, if it hasn't."""
        if worker.state == "idle":
            worker.state = "leaving"
        self._cut(worker)

    def _cut(self, worker: Worker) -> None:
        """Close a worker's link, at whose end it ends."""
        if self._links.pop(worker.link.fileno(), None):
            self._poll.unregister(worker.link)
            worker.link.close()

    def _reap(self, worker: Worker) -> None:
        """A worker has ended: answer for one that failed before it could."""
        self._poll.unregister(worker.pidfd)
        self._cut(worker)
        del self._workers[worker.pidfd]
        os.close(worker.pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        if code != 0 and worker.state == "busy":
            how = f"was killed by signal {-code}" if code < 0 else "failed; its error is in the switch's log"
            self._answer_for(worker.request_id, f"the process that enters containers {how}; try again")

    def _kill_the_late(self) -> None:
        """Answer for workers past their deadline, and kill them."""
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.state == "busy" and worker.kill_at <= now:
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
                worker.state = "leaving"
                late = f"the kernel took more than {REQUEST_TIMEOUT_S:g} s; try again"
                self._answer_for(worker.request_id, late)

    def _patience_ms(self) -> int | None:
        """Until the next deadline."""
        deadlines = [worker.kill_at for worker in self._workers.values() if worker.state == "busy"]
        if not deadlines:
            return None
        return max(0, int((min(deadlines) - time.monotonic()) * 1000) + 1)

    def _answer_for(self, request_id: int, message: str) -> None:
        """Tell the switch; one so full that it cannot be told runs into its own deadline."""
        answer = Answer(request_id, fault="other", message=message)
        with contextlib.suppress(OSError):
            self._channel.send(messages.encode(answer), socket.MSG_DONTWAIT)
