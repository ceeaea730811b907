"""Streaming: order, overlap, bounds, and what an error leaves behind. Threads meet at events, never by the clock."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.engine import Progress, stream
from tilesegment.geometry import Block, FieldOfView, Region, TileGrid

# long enough for a busy machine; reached only where a test fails
PATIENCE = 30.0

Work = list[tuple[int, Block]]


def work_of(count: int) -> Work:
    """`count` blocks of 10 x 10 pixels, in planes of three."""
    grid = TileGrid(Region(0, 0, 10, 30), 10, 10, FieldOfView(1, 0, 0, True))
    return list(itertools.islice(((z, block) for z in itertools.count() for block in grid), count))


class Recorder:
    """Reads, predicts and writes numbers, and keeps the order in which that was done."""

    def __init__(self, work: Work) -> None:
        self.number = {item: n for n, item in enumerate(work)}
        self.read_: list[int] = []
        self.predicted: list[int] = []
        self.written: list[int] = []
        self.reports: list[Progress] = []
        self.threads: dict[str, set[str]] = {"read": set(), "predict": set(), "write": set()}

    def read(self, z: int, block: Block) -> np.ndarray:
        self.threads["read"].add(threading.current_thread().name)
        n = self.number[z, block]
        self.read_.append(n)
        return np.array([n])

    def predict(self, pixels: np.ndarray, block: Block) -> int:
        self.threads["predict"].add(threading.current_thread().name)
        self.predicted.append(int(pixels[0]))
        return int(pixels[0]) * 10

    def write(self, z: int, block: Block, result: int) -> None:
        self.threads["write"].add(threading.current_thread().name)
        assert result == self.number[z, block] * 10, "a block got the result of another"
        self.written.append(self.number[z, block])

    def run(self, work: Work) -> Progress:
        return stream(iter(work), self.read, self.predict, self.write, self.reports.append)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12))
def test_every_block_goes_through_in_order(count: int) -> None:
    work = work_of(count)
    recorder = Recorder(work)
    done = recorder.run(work)
    assert recorder.read_ == recorder.predicted == recorder.written == list(range(count))
    assert (done.blocks, done.pixels) == (count, 100 * count)
    assert [(p.blocks, p.pixels) for p in recorder.reports] == [(n, 100 * n) for n in range(1, count + 1)]
    seconds = [0.0, *(p.seconds for p in recorder.reports), done.seconds]
    assert seconds == sorted(seconds)


def test_read_and_write_have_a_thread_each_and_predict_the_callers() -> None:
    work = work_of(8)
    recorder = Recorder(work)
    recorder.run(work)
    assert recorder.threads["predict"] == {threading.current_thread().name}
    assert [name.split("_")[0] for key in ("read", "write") for name in recorder.threads[key]] == ["read", "write"]
    assert not [t for t in threading.enumerate() if t.name.startswith(("read", "write"))], "threads end with the run"


def test_reading_predicting_and_writing_go_on_at_the_same_time() -> None:
    """Block 2 is read, block 1 predicted and block 0 written only when all three have begun."""
    work, meeting = work_of(3), threading.Barrier(3)
    recorder = Recorder(work)

    def read(z: int, block: Block) -> np.ndarray:
        if recorder.number[z, block] == 2:
            meeting.wait(PATIENCE)
        return recorder.read(z, block)

    def predict(pixels: np.ndarray, block: Block) -> int:
        if pixels[0] == 1:
            meeting.wait(PATIENCE)
        return recorder.predict(pixels, block)

    def write(z: int, block: Block, result: int) -> None:
        if recorder.number[z, block] == 0:
            meeting.wait(PATIENCE)
        recorder.write(z, block, result)

    stream(work, read, predict, write)
    assert recorder.written == [0, 1, 2]


def test_no_more_than_two_blocks_wait_to_be_predicted() -> None:
    """However slow predicting is: while block n is predicted, n + 1 and n + 2 are read, and nothing beyond."""
    work = work_of(12)
    recorder, begun = Recorder(work), [threading.Event() for _ in work]

    def read(z: int, block: Block) -> np.ndarray:
        begun[recorder.number[z, block]].set()
        return recorder.read(z, block)

    def predict(pixels: np.ndarray, block: Block) -> int:
        n = int(pixels[0])
        last = min(n + 2, len(work) - 1)
        assert begun[last].wait(PATIENCE), "reading is ahead by two blocks"
        assert not any(event.is_set() for event in begun[n + 3 :])
        return recorder.predict(pixels, block)

    stream(work, read, predict, recorder.write)
    assert recorder.written == list(range(12))


def test_no_more_than_two_blocks_wait_to_be_written() -> None:
    """However slow writing is: while block n is written, n + 1 waits and n + 2 is predicted, and nothing beyond."""
    work = work_of(12)
    recorder, predicted = Recorder(work), [threading.Event() for _ in work]

    def predict(pixels: np.ndarray, block: Block) -> int:
        predicted[int(pixels[0])].set()
        return recorder.predict(pixels, block)

    def write(z: int, block: Block, result: int) -> None:
        n = recorder.number[z, block]
        assert predicted[min(n + 2, len(work) - 1)].wait(PATIENCE), "predicting goes on meanwhile"
        assert not any(event.is_set() for event in predicted[n + 3 :])
        recorder.write(z, block, result)

    stream(work, recorder.read, predict, write)
    assert recorder.written == list(range(12))


def test_endless_work_is_not_drawn_at_once() -> None:
    """Work is an iterator: a run over a million blocks starts with the first."""
    grid = TileGrid(Region(0, 0, 10, 10), 10, 10, FieldOfView(1, 0, 0, True)).at(0, 0)
    drawn, written = itertools.count(), []

    def stop(progress: Progress) -> None:
        if progress.blocks == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(
            ((next(drawn), grid) for _ in itertools.count()),
            lambda z, block: np.zeros(1),
            lambda pixels, block: None,
            lambda z, block, result: written.append(z),
            stop,
        )
    assert written[:5] == [0, 1, 2, 3, 4]
    assert next(drawn) <= 12


class BrokenError(Exception):
    """What a broken part raises."""


@pytest.mark.parametrize("error", [BrokenError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("part", ["read", "predict", "write"])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_the_first_error_stops_the_run_and_what_is_written_stays(
    part: str, at: int, error: type[BaseException]
) -> None:
    """It surfaces once, as it is; all blocks before it that were predicted in time are whole."""
    work = work_of(10)
    recorder, raised = Recorder(work), []

    def breaking(which: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            n = int(arguments[0][0]) if which == "predict" else recorder.number[arguments[0], arguments[1]]
            if which == part and n == at:
                raised.append(n)
                raise error(f"{part} {n}")
            return call(*arguments)

        return wrapped

    read, predict, write = (breaking(name, getattr(recorder, name)) for name in ("read", "predict", "write"))
    with pytest.raises(error, match=f"^{part} {at}$") as caught:
        stream(work, read, predict, write, recorder.reports.append)
    assert caught.value.__context__ is None
    assert raised == [at]
    if part == "write":
        # the one block that waited behind it may have been begun before the error was seen
        assert recorder.written in (list(range(at)), [*range(at), at + 1])
        assert len(recorder.reports) == at
    else:
        assert recorder.written == list(range(len(recorder.written)))
        assert at - 2 <= len(recorder.written) <= at
        assert len(recorder.reports) <= len(recorder.written)
    assert recorder.predicted == list(range(len(recorder.predicted)))
    assert len(recorder.read_) <= at + (5 if part == "write" else 3)
    assert not [t for t in threading.enumerate() if t.name.startswith(("read", "write"))]


def test_what_is_being_written_when_an_error_comes_is_written_to_its_end() -> None:
    work, failed = work_of(4), threading.Event()
    recorder, begun = Recorder(work), threading.Event()

    def predict(pixels: np.ndarray, block: Block) -> int:
        if pixels[0] == 1:
            assert begun.wait(PATIENCE)
            failed.set()
            raise BrokenError
        return recorder.predict(pixels, block)

    def write(z: int, block: Block, result: int) -> None:
        begun.set()
        assert failed.wait(PATIENCE)
        recorder.write(z, block, result)

    with pytest.raises(BrokenError):
        stream(work, recorder.read, predict, write)
    assert recorder.written == [0]


def until_joining(thread: threading.Thread) -> None:
    """Returns once `thread` waits for another to end."""
    for _ in range(int(PATIENCE * 1000)):
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_name == "join":
                return
            frame = frame.f_back
        time.sleep(0.001)
    raise AssertionError("the run did not end")


@pytest.mark.parametrize("busy", ["read", "write"])
def test_nothing_new_is_begun_after_an_error(busy: str) -> None:
    """What is queued behind a block that is being read or written is dropped."""
    work, caller, begun = work_of(4), threading.current_thread(), threading.Event()
    recorder, started = Recorder(work), []
    slow, fails = {"read": (1, 0), "write": (0, 2)}[busy]

    def slowly(part: str, n: int) -> None:
        if part == busy:
            started.append(n)
            if n == slow:
                begun.set()
                until_joining(caller)

    def read(z: int, block: Block) -> np.ndarray:
        slowly("read", recorder.number[z, block])
        return recorder.read(z, block)

    def predict(pixels: np.ndarray, block: Block) -> int:
        if pixels[0] == fails:
            assert begun.wait(PATIENCE)
            raise BrokenError
        return recorder.predict(pixels, block)

    def write(z: int, block: Block, result: int) -> None:
        slowly("write", recorder.number[z, block])
        recorder.write(z, block, result)

    with pytest.raises(BrokenError):
        stream(work, read, predict, write)
    assert started == list(range(slow + 1))


def test_an_error_in_the_work_itself_surfaces() -> None:
    """`work` asks the mask which blocks are done, which may fail."""
    work = work_of(3)
    recorder = Recorder(work)

    def items() -> Iterator[tuple[int, Block]]:
        yield from work
        raise BrokenError

    with pytest.raises(BrokenError):
        stream(items(), recorder.read, recorder.predict, recorder.write)
    assert recorder.written == list(range(len(recorder.written)))


def test_reports_come_from_the_callers_thread_after_the_block_is_safe() -> None:
    work = work_of(6)
    recorder, threads = Recorder(work), set()

    def report(progress: Progress) -> None:
        threads.add(threading.current_thread())
        assert len(recorder.written) >= progress.blocks

    stream(work, recorder.read, recorder.predict, recorder.write, report)
    assert threads == {threading.current_thread()}
