"""When Ctrl-C, and SIGTERM from a batch system, may interrupt a command."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tilesegment.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether SIGTERM has arrived: call it in loops, and in code that would swallow an interrupt."""

    def __init__(self) -> None:
        self.asked, self.begun, self.at_once = 0, False, False

    def __call__(self) -> bool:
        return self.asked > 0

    def begin(self) -> None:
        """From now on let the first signal only set the flag, so that blocks under way are finished."""
        self.begun = True

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Interrupt once: at the second signal, or at the first if nothing is under way."""
        self.asked += 1
        if not self.at_once and (self.asked == 2 or not self.begun):
            self.at_once = True
            raise KeyboardInterrupt


@contextmanager
def sigterm_stops() -> Iterator[Stop]:
    """Let SIGTERM interrupt as Ctrl-C does, or only set a flag: see `Stop.begin`.

    Raises:
        StoppedError: SIGTERM interrupted.
    """
    stop = Stop()
    before = signal.signal(signal.SIGTERM, stop.hear)
    try:
        yield stop
    except KeyboardInterrupt:
        if not stop():
            raise
        raise StoppedError("stopped by SIGTERM") from None
    finally:
        if not stop.at_once:  # else the process is about to exit
            signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Defer Ctrl-C, and SIGTERM if it has a handler, until the block is done; a second signal gets through.

    Signals reach only the main thread: in any other this does nothing.

    Yields:
        The numbers of the signals received.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def put_off(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, put_off)
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if len(came) == 1:
            signal.raise_signal(came[0])


def ignore_signals(worker: int = 0) -> None:
    """Let the main process end this worker: Ctrl-C and batch systems signal all processes at once."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
