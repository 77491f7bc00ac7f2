"""Aside: has one thing done in a second thread while the caller does another, for work that lets go of the interpreter.

What comes in is a function; what goes out is a function that waits for its result. numpy, Pillow and the engines leave
the interpreter to others while they compute, so on a second core the work costs next to nothing. Its thread begins
with the first work, since to start one for each picture would cost half of what is gained, and ends with its owner.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Jobs = SimpleQueue[Callable[[], None] | None]


class Aside:
    """A second thread, for one job after another; any number of threads may give it some."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._jobs: _Jobs | None = None
        self._process = 0

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Have something done in the second thread.

        Args:
            work: what; it must not wait for other work of this thread.

        Returns:
            Waits until it is done, and returns what it returned or raises what it raised; to be called once. Where no
            thread can be had (a limit of them, an interpreter that is about to end), it is `work` itself.
        """
        done = threading.Lock()
        done.acquire()
        found: list[T] = []
        failed: list[BaseException] = []

        def job() -> None:
            try:
                found.append(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                failed.append(error)
            finally:
                done.release()

        def result() -> T:
            done.acquire()
            if failed:
                raise failed.pop()  # popped: kept here, error and frame would hold each other
            return found[0]

        try:
            jobs = self._running()
        except RuntimeError:
            return work
        jobs.put(job)
        return result

    def _running(self) -> _Jobs:
        """Return the jobs of a thread that runs in this process: threads do not survive a fork."""
        with self._starting:
            if self._jobs is None or self._process != os.getpid():
                jobs: _Jobs = SimpleQueue()
                threading.Thread(target=_work, args=(jobs,), name="aside", daemon=True).start()
                weakref.finalize(self, jobs.put, None)
                self._jobs, self._process = jobs, os.getpid()  # only now: without a thread, nobody would do them
            return self._jobs


def _work(jobs: SimpleQueue[Any]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # else the last one's pixels are held until the next comes
