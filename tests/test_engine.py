"""Streaming: order, overlap, bounds, and what an error leaves behind. Threads meet at events, never by the clock."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.prediction.engine import stream

# long enough for a busy machine; reached only where a test fails
PATIENCE = 30.0


class Recorder:
    """Reads, predicts and writes numbers, and keeps the order in which that was done."""

    def __init__(self) -> None:
        self.read_: list[int] = []
        self.predicted: list[int] = []
        self.written: list[int] = []
        self.threads: dict[str, set[str]] = {"read": set(), "predict": set(), "write": set()}

    def read(self, item: int) -> np.ndarray:
        self.threads["read"].add(threading.current_thread().name)
        self.read_.append(item)
        return np.array([item])

    def predict(self, item: int, pixels: np.ndarray) -> int:
        self.threads["predict"].add(threading.current_thread().name)
        assert pixels[0] == item, "a block got the pixels of another"
        self.predicted.append(item)
        return item * 10

    def write(self, item: int, result: int) -> str:
        self.threads["write"].add(threading.current_thread().name)
        assert result == item * 10, "a block got the result of another"
        self.written.append(item)
        return f"{item} is safe"


def names_of_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("read", "write"))]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12))
def test_every_block_goes_through_in_order(count: int) -> None:
    recorder = Recorder()
    back = []
    for item, error in stream(range(count), recorder.read, recorder.predict, recorder.write):
        assert item in recorder.written, "handed back before it was safe"
        back.append((item, error))
    assert recorder.read_ == recorder.predicted == recorder.written == list(range(count))
    assert back == [(item, f"{item} is safe") for item in range(count)]


def test_read_and_write_have_a_thread_each_and_predict_the_callers() -> None:
    recorder = Recorder()
    list(stream(range(8), recorder.read, recorder.predict, recorder.write))
    assert recorder.threads["predict"] == {threading.current_thread().name}
    assert [name.split("_")[0] for key in ("read", "write") for name in recorder.threads[key]] == ["read", "write"]
    assert not names_of_threads(), "threads end with the run"


def test_reading_predicting_and_writing_go_on_at_the_same_time() -> None:
    """Block 2 is read, block 1 predicted and block 0 written only when all three have begun."""
    recorder, meeting = Recorder(), threading.Barrier(3)

    def meet_at(number: int, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(item: int, *rest: Any) -> Any:
            if item == number:
                meeting.wait(PATIENCE)
            return call(item, *rest)

        return wrapped

    list(stream(range(3), meet_at(2, recorder.read), meet_at(1, recorder.predict), meet_at(0, recorder.write)))
    assert recorder.written == [0, 1, 2]


@pytest.mark.parametrize("slow", ["predict", "write"])
def test_no_more_than_two_blocks_wait_on_either_side(slow: str) -> None:
    """While block n is predicted, n + 1 and n + 2 are read, and nothing beyond; so for writing and predicting."""
    count, recorder = 12, Recorder()
    before, begun = {"predict": "read", "write": "predict"}[slow], [threading.Event() for _ in range(count)]
    calls: dict[str, Callable[..., Any]] = {name: getattr(recorder, name) for name in ("read", "predict", "write")}

    def early(item: int, *rest: Any) -> Any:
        begun[item].set()
        return getattr(recorder, before)(item, *rest)

    def late(item: int, *rest: Any) -> Any:
        assert begun[min(item + 2, count - 1)].wait(PATIENCE), "the others go on meanwhile"
        assert not any(event.is_set() for event in begun[item + 3 :])
        return getattr(recorder, slow)(item, *rest)

    calls |= {before: early, slow: late}
    list(stream(range(count), *calls.values()))
    assert recorder.written == list(range(count))


def test_endless_work_is_not_drawn_at_once_and_can_be_left() -> None:
    """Work is an iterator: a run over a million blocks starts with the first. Who has enough stops asking."""
    drawn, recorder = itertools.count(), Recorder()
    running = stream((next(drawn) for _ in itertools.count()), recorder.read, recorder.predict, recorder.write)
    assert [item for item, _ in itertools.islice(running, 5)] == [0, 1, 2, 3, 4]
    running.close()
    assert next(drawn) <= 12
    assert recorder.written == list(range(len(recorder.written)))
    assert not names_of_threads()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12))
def test_when_it_is_to_stop_what_is_predicted_is_written_and_the_rest_is_left(count: int, after: int) -> None:
    recorder = Recorder()
    back = list(
        stream(range(count), recorder.read, recorder.predict, recorder.write, lambda: len(recorder.predicted) >= after)
    )
    done = list(range(min(after, count)))
    assert recorder.predicted == recorder.written == [item for item, _ in back] == done


class BrokenError(Exception):
    """What a broken part raises."""


def breaking(recorder: Recorder, part: str, at: set[int], error: type[BaseException]) -> list[Callable[..., Any]]:
    """Read, predict and write of the recorder, of which `part` fails for the items `at`."""

    def wrap(name: str) -> Callable[..., Any]:
        def wrapped(item: int, *rest: Any) -> Any:
            if name == part and item in at:
                raise error(f"{part} {item}")
            return getattr(recorder, name)(item, *rest)

        return wrapped

    return [wrap(name) for name in ("read", "predict", "write")]


@pytest.mark.parametrize("error", [BrokenError, MemoryError])
@pytest.mark.parametrize("part", ["read", "predict", "write"])
@settings(max_examples=20, deadline=None)
@given(at=st.sets(st.integers(0, 9)))
def test_a_block_that_fails_comes_back_with_its_error_and_the_others_are_done(
    part: str, error: type[Exception], at: set[int]
) -> None:
    recorder = Recorder()
    back = list(stream(range(10), *breaking(recorder, part, at, error)))
    assert [item for item, _ in back] == list(range(10))
    assert {item: (type(found), str(found)) for item, found in back if isinstance(found, Exception)} == {
        item: (error, f"{part} {item}") for item in at
    }
    assert recorder.written == [item for item in range(10) if item not in at]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("part", ["read", "predict", "write"])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_ctrl_c_stops_the_run_and_what_is_written_stays(part: str, at: int, error: type[BaseException]) -> None:
    recorder = Recorder()
    with pytest.raises(error, match=f"^{part} {at}$"):
        list(stream(range(10), *breaking(recorder, part, {at}, error)))
    before = [item for item in recorder.written if item < at]
    assert before == list(range(len(before)))
    assert at not in recorder.written
    assert len(recorder.read_) <= at + (6 if part == "write" else 3)
    assert not names_of_threads()


def test_what_is_being_written_when_ctrl_c_comes_is_written_to_its_end() -> None:
    failed, begun, recorder = threading.Event(), threading.Event(), Recorder()

    def predict(item: int, pixels: np.ndarray) -> int:
        if item == 1:
            assert begun.wait(PATIENCE)
            failed.set()
            raise KeyboardInterrupt
        return recorder.predict(item, pixels)

    def write(item: int, result: int) -> None:
        begun.set()
        assert failed.wait(PATIENCE)
        recorder.write(item, result)

    with pytest.raises(KeyboardInterrupt):
        list(stream(range(4), recorder.read, predict, write))
    assert recorder.written == [0]


def test_an_error_in_the_work_itself_surfaces() -> None:
    recorder = Recorder()

    def items() -> Iterator[int]:
        yield from range(3)
        raise BrokenError

    with pytest.raises(BrokenError):
        list(stream(items(), recorder.read, recorder.predict, recorder.write))
    assert recorder.written == list(range(len(recorder.written)))
