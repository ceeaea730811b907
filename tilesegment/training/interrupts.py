"""Steps that a signal must not cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Put off Ctrl-C, and SIGTERM where it has a handler, until the block is done; a second signal comes through.

    Signals reach the main thread only: in another one this does nothing.

    Yields:
        The numbers of the signals that have come.
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
    """Leave it to the main process to end this worker: a batch system and Ctrl-C signal to all at once."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
