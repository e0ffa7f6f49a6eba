# SPDX-License-Identifier: Apache-2.0
"""A change to the switch runs in a task of its own, and ends in one of two ways: done, or undone.

Whoever asked may go away at any moment (a client's connection breaks). Then no step is torn in the middle,
since the kernel would be left with half of it; instead the work asks `job.go_on()` between its steps, and
that raises `Abandoned`, which unwinds what was done so far like any other failure. At the switch's end new
work is refused, and everybody counts as gone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vswitch.model import Refused

T = TypeVar("T")
log = logging.getLogger(__name__)

CLOSE_PATIENCE_S = (
    3.0  # a step takes milliseconds; what takes longer waits for a process to end, and need not
)

ENDING = "the switch is ending: nothing can be changed any more"
EXHAUSTED = {
    errno.EMFILE: "the switch has no file descriptor left: raise LimitNOFILE or ulimit -n",
    errno.ENFILE: "the machine has no file descriptor left: raise fs.file-max",
    errno.ENOMEM: "the machine is out of memory",
    errno.ENOSPC: "the disk is full: free some space",
}


class Abandoned(Exception):
    """Whoever asked for the change has gone away."""


class Job:
    """One change under way."""

    def __init__(self) -> None:
        self.abandoned = False

    def go_on(self) -> None:
        """To be called between steps: raises Abandoned if nobody waits for the result any more."""
        if self.abandoned:
            raise Abandoned


class Jobs:
    """All changes under way."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task, Job] = {}
        self._closed = False

    async def run(self, work: Callable[[Job], Awaitable[T]]) -> T:
        """The result of `work`, or its Refused; what the operating system refused becomes a Refused too."""
        self.refuse_when_closed()
        job = Job()
        task = asyncio.ensure_future(_refusing(work, job))
        self._tasks[task] = job
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            job.abandoned = True
            if task.cancelled():  # by close, and not our caller
                raise Refused(ENDING, 500) from None
            raise
        except Abandoned:
            raise Refused(ENDING, 500) from None

    def refuse_when_closed(self) -> None:
        """Refused once the switch is ending."""
        if self._closed:
            raise Refused(ENDING, 500)

    def start(self, work: Callable[[Job], Awaitable[None]]) -> None:
        """Run `work` with nobody waiting for it, such as the answer to a namespace's end.

        Once the switch is ending, nothing is done: the next start finds it out by itself.
        """
        if self._closed:
            return
        job = Job()
        task = asyncio.ensure_future(_refusing(work, job))
        self._tasks[task] = job
        task.add_done_callback(self._done_unheard)

    async def close(self) -> None:
        """Take no more work; what is under way gives up at its next step, what only waits is cancelled."""
        self._closed = True
        for job in self._tasks.values():
            job.abandoned = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_PATIENCE_S)
        for task in self._tasks:
            task.cancel()
        await self.finish()

    async def finish(self) -> None:
        """Wait until no work is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # has been seen: an abandoned job's failure is nobody's news

    def _done_unheard(self, task: asyncio.Task) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or isinstance(problem := task.exception(), Abandoned):
            return
        if problem is not None:
            expected = isinstance(problem, Refused)
            log.log(
                logging.WARNING if expected else logging.ERROR,
                "%s",
                problem,
                exc_info=None if expected else problem,
            )


async def _refusing(work: Callable[[Job], Awaitable[T]], job: Job) -> T:
    try:
        return await work(job)
    except OSError as problem:
        explanation = EXHAUSTED.get(problem.errno or 0)
        log.warning("a change failed: %s", problem)
        raise Refused(
            explanation or f"the system refused: {problem}", 507 if explanation else 500
        ) from problem


async def quietly(step: Awaitable[object], what: str) -> None:
    """Do a step of an undoing: its failure is logged and must not keep the next steps from being done."""
    try:
        await step
    except Exception as problem:
        log.warning(
            "%s: %s", what, problem, exc_info=None if isinstance(problem, (Refused, OSError)) else problem
        )
