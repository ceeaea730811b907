"""What a prediction shows while it runs: one bar for all images, a line for what is over."""

from types import TracebackType
from typing import Self

import click

from tilesegment.errors import one_line
from tilesegment.geometry import Block
from tilesegment.prediction.result import Listener, Progress, Result, peak_memory
from tilesegment_cli.progress import ProgressReport


class Screen(Listener):
    """Shows a run on stderr.

    Args:
        quiet: show nothing but errors.
        verbose: show plans before they are carried out.
        many: whether there are many images, of which each one's end is shown, errors among them.
    """

    def __init__(self, quiet: bool, verbose: bool, many: bool) -> None:
        self.verbose, self.many = verbose, many
        self._progress = ProgressReport(quiet)
        self._noted: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """What a user should know of the run as a whole."""
        self._progress.line(f"Note: {text}")

    def begun(self, result: Result) -> None:
        """The plan, if it is asked for, what is assumed, and what was found of an earlier run."""
        if self.verbose:
            for name, value in result.decided.lines():
                self._progress.line(f"{name:<10}{value}")
        for note in result.notes:
            if note not in self._noted:
                self._progress.line(f"Note: {note}")
        self._noted.update(result.notes)
        if result.blocks_repaired:
            self._progress.line(f"{result.out}: {result.blocks_repaired} damaged blocks are computed again")

    def progressed(self, result: Result, progress: Progress) -> None:
        """The bar."""
        speed = progress.pixels / 1e6 / max(progress.seconds, 1e-9)
        images = f"{progress.ended} of {progress.images} images, " if self.many else ""
        self._progress.show(
            progress.share, f"{images}{progress.pixels / 1e6:,.1f} Mpx, {speed:.2f} Mpx/s", progress.seconds
        )

    def failed(self, result: Result, block: Block, error: Exception) -> None:
        """A block that could not be done, where the others are gone on with."""
        if not result.given_up and result.decided.blocks > 1:
            self._progress.line(f"{error}; going on with the other blocks")

    def ended(self, result: Result) -> None:
        """A line for each image."""
        if result.errors and self.many:
            # errors are said even where all else is kept quiet
            click.echo(f"Error: {result.image}: {one_line(result.errors[0])}", err=True)
        if result.errors or not result.finished:
            return
        megapixels = result.pixels / 1e6
        peak = "" if self.many else f", peak memory {peak_memory() / 1e9:.2f} GB"
        resumed = f", {result.blocks_resumed} blocks were done before" if result.blocks_resumed else ""
        skipped = (
            f", {result.blocks_skipped} of {result.blocks} blocks were empty and skipped"
            if result.blocks_skipped
            else ""
        )
        parts = "" if result.complete else "; other parts are still to be done"
        self._progress.line(
            f"{result.out}: {megapixels:,.1f} Mpx in {result.seconds:,.1f} s ({result.mpx_per_s:.2f} Mpx/s)"
            f"{peak}{resumed}{skipped}{parts}"
        )
        if result.batch < result.decided.batch:
            planned, device = result.decided.batch, result.decided.device
            self._progress.line(f"{device} lacks the memory for {planned} tiles at a time: {result.batch}")
        if result.mismatch is not None:
            halo, share = result.decided.view.before, 100 * result.mismatch
            self._progress.line(
                f"halo of {halo} px, chosen: with a larger one {share:.3f} % of the pixels near tile lines and borders "
                "are of another class"
            )
        if result.unmeasured:
            halo = result.decided.view.before
            self._progress.line(
                f"halo of {halo} px, chosen: what a larger one would change cannot be measured, as it reaches pixels "
                "that cannot be read"
            )
        if result.disagreement is not None:
            share = 100 * result.disagreement
            self._progress.line(f"int8: {share:.3f} % of the pixels of some tiles are of another class than in fp32")
