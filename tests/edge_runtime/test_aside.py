"""What is done aside gives its result or its error, ends with its owner, and changes no answer."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import smear

from edge_runtime import classifier as classifiers
from edge_runtime.aside import Aside
from edge_runtime.classifier import Classifier, Prediction


def threads() -> set[threading.Thread]:
    """Return the threads that work aside, anybody's."""
    return {thread for thread in threading.enumerate() if thread.name == "aside"}


def wait(until: Callable[[], bool]) -> None:
    """Wait a while for something to come true."""
    for _ in range(500):
        if until():
            return
        time.sleep(0.01)
    assert until()


def test_no_thread_before_there_is_work_and_none_after_its_owner() -> None:
    before = threads()
    aside = Aside()
    assert not threads() - before
    assert [aside.begin(lambda i=i: i * i)() for i in range(100)] == [i * i for i in range(100)]
    (mine,) = threads() - before
    del aside
    gc.collect()
    wait(lambda: not mine.is_alive())


def test_an_error_arrives_where_the_result_is_waited_for() -> None:
    aside = Aside()
    failing = aside.begin(lambda: 1 // 0)
    other = aside.begin(lambda: 2)  # the thread lives on
    with pytest.raises(ZeroDivisionError):
        failing()
    assert other() == 2


def test_nothing_is_kept_of_work_that_is_done() -> None:
    class Large:
        pass

    aside, given = Aside(), Large()
    gone = threading.Event()
    weakref.finalize(given, gone.set)
    aside.begin(lambda large=given: large)()
    del given
    assert gone.wait(5)


def test_many_callers_get_their_own_results() -> None:
    aside = Aside()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: aside.begin(lambda: i)(), range(2000)))
    assert found == list(range(2000))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_starts_a_thread_of_its_own() -> None:
    aside = Aside()
    assert aside.begin(lambda: 1)() == 1
    child = os.fork()
    if child == 0:  # whatever happens here must not return into pytest
        try:
            os._exit(aside.begin(lambda: 42)())
        finally:
            os._exit(1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for a thread that it does not have")
    assert os.waitstatus_to_exitcode(status) == 42
    assert aside.begin(lambda: 2)() == 2


def test_where_no_thread_can_be_had_the_work_is_done_by_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    aside = Aside()
    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", none)
        assert aside.begin(threading.get_ident)() == threading.get_ident()
    found = ThreadPoolExecutor(1).submit(aside.begin(threading.get_ident))
    assert found.result(10) != threading.get_ident(), "later there is one, and nothing waits for one that never was"


def same(one: Prediction, other: Prediction) -> bool:
    """Say whether two answers are the same but for their times."""
    left, right = one.to_dict(), other.to_dict()
    return left.pop("timings_ms").keys() == right.pop("timings_ms").keys() and left == right


@pytest.fixture(scope="module")
def two_ways() -> tuple[Classifier, Classifier]:
    """Return a shipped classifier, judging aside and afterwards."""
    after = dataclasses.replace(Classifier.open("blood-cells", threads=1), aside=None)
    return dataclasses.replace(after, aside=Aside()), after


def test_answers_are_the_same_aside_and_from_several_threads(two_ways: tuple[Classifier, Classifier]) -> None:
    aside, after = two_ways
    rng = np.random.default_rng(0)
    pictures = [smear(224, seed) for seed in range(8)]
    pictures += [np.full((224, 224, 3), 255, np.uint8), rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)]
    wanted = [after.classify_pixels(picture) for picture in pictures]
    assert len({tuple(refusal.reason for refusal in answer.refusals) for answer in wanted}) > 1
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(aside.classify_pixels, 3 * pictures))
    assert all(same(one, other) for one, other in zip(found, 3 * wanted, strict=True))


def test_what_goes_wrong_while_judging_is_raised(
    two_ways: tuple[Classifier, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(classifiers, "describe_pixels", fail)
    for classifier in two_ways:
        with pytest.raises(MemoryError):
            classifier.classify_pixels(smear(224, 0))


@pytest.mark.parametrize(("cpus", "threads", "expected"), [(1, 1, False), (2, 1, True), (4, 4, False), (4, 3, True)])
def test_pixels_are_judged_aside_only_where_a_core_is_spare(
    valid_bundle: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int, expected: bool
) -> None:
    monkeypatch.setattr(classifiers, "usable_cpus", lambda: cpus)
    classifier = Classifier.open(valid_bundle, threads=threads)
    assert (classifier.aside is not None) == expected
