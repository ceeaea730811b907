"""How far a run is, in one line that changes: on a terminal and in a notebook."""

import sys
import time

from tilesegment.prediction.result import Listener, Progress, Result

_EVERY = 0.2  # seconds between two changes
_WIDTH = 78


class ProgressLine(Listener):
    """Writes the share done, the speed and the time left to stderr, over what it wrote before."""

    def __init__(self) -> None:
        self._said = 0.0

    def progressed(self, result: Result, progress: Progress) -> None:
        """Change the line, unless it was changed just now."""
        now = time.monotonic()
        if now - self._said < _EVERY and progress.pixels < progress.total:
            return
        self._said = now
        share = min(progress.pixels / max(progress.total, 1), 1.0)
        left = progress.seconds * (1 - share) / share if share else 0.0
        speed = progress.pixels / 1e6 / max(progress.seconds, 1e-9)
        self._show(f"{100 * share:3.0f} %  {result.image}  {speed:.2f} Mpx/s, {left:,.0f} s left")

    def finding(self, result: Result, share: float, what: str) -> None:
        """Change the line to what is done for the objects."""
        self._show(f"{100 * share:3.0f} %  objects: {what}")

    def ended(self, result: Result) -> None:
        """End the line."""
        self._show(f"{result.image}: {result.state}, {result.pixels / 1e6:,.2f} Mpx in {result.seconds:.1f} s")
        sys.stderr.write("\n")
        sys.stderr.flush()

    def _show(self, text: str) -> None:
        sys.stderr.write(f"\r{text[:_WIDTH]:<{_WIDTH}}")
        sys.stderr.flush()
