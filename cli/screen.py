"""What a prediction shows while it runs: one bar for all images, a line for what is over."""

from types import TracebackType
from typing import Self

import click

from tilesegment.errors import one_line
from tilesegment.geometry import Block
from tilesegment.prediction.outcome import Listener, Outcome, Progress
from tilesegment.prediction.prediction import peak_memory
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

    def begun(self, outcome: Outcome) -> None:
        """The plan, if it is asked for, what is assumed, and what was found of an earlier run."""
        assert outcome.order is not None
        if self.verbose:
            for name, value in outcome.order.lines():
                self._progress.line(f"{name:<10}{value}")
        for note in outcome.notes:
            if note not in self._noted:
                self._progress.line(f"Note: {note}")
        self._noted.update(outcome.notes)
        if outcome.repaired:
            self._progress.line(f"{outcome.errand.outputs.mask}: {outcome.repaired} damaged blocks are computed again")

    def progressed(self, outcome: Outcome, progress: Progress) -> None:
        """The bar."""
        speed = progress.pixels / 1e6 / max(progress.seconds, 1e-9)
        images = f"{progress.ended} of {progress.images} images, " if self.many else ""
        self._progress.show(
            progress.share, f"{images}{progress.pixels / 1e6:,.1f} Mpx, {speed:.2f} Mpx/s", progress.seconds
        )

    def failed(self, outcome: Outcome, block: Block, error: Exception) -> None:
        """A block that could not be done, where the others are gone on with."""
        assert outcome.order is not None
        if not outcome.given_up and outcome.order.plan.blocks > 1:
            self._progress.line(f"{error}; going on with the other blocks")

    def ended(self, outcome: Outcome) -> None:
        """A line for each image."""
        if outcome.errors and self.many:
            # errors are said even where all else is kept quiet
            click.echo(f"Error: {outcome.errand.image}: {one_line(outcome.errors[0])}", err=True)
        if outcome.errors or outcome.ending is None:
            return
        speed, megapixels = outcome.pixels / 1e6 / max(outcome.seconds, 1e-9), outcome.pixels / 1e6
        peak = "" if self.many else f", peak memory {peak_memory() / 1e9:.2f} GB"
        resumed = f", {outcome.resumed} blocks were done before" if outcome.resumed else ""
        skipped = f", {outcome.skipped} of {outcome.blocks} blocks were empty and skipped" if outcome.skipped else ""
        parts = "" if outcome.ending.complete else "; other parts are still to be done"
        self._progress.line(
            f"{outcome.errand.outputs.mask}: {megapixels:,.1f} Mpx in {outcome.seconds:,.1f} s ({speed:.2f} Mpx/s)"
            f"{peak}{resumed}{skipped}{parts}"
        )
        assert outcome.order is not None
        if outcome.ending.batch < outcome.order.plan.batch:
            planned, device = outcome.order.plan.batch, outcome.order.plan.device
            self._progress.line(f"{device} lacks the memory for {planned} tiles at a time: {outcome.ending.batch}")
        if outcome.ending.mismatch is not None:
            halo, share = outcome.order.plan.network.view.before, 100 * outcome.ending.mismatch
            self._progress.line(
                f"halo of {halo} px, chosen: with a larger one {share:.3f} % of the pixels near tile lines and borders "
                "are of another class"
            )
        if outcome.ending.unmeasured:
            halo = outcome.order.plan.network.view.before
            self._progress.line(
                f"halo of {halo} px, chosen: what a larger one would change cannot be measured, as it reaches pixels "
                "that cannot be read"
            )
        if outcome.ending.disagreement is not None:
            share = 100 * outcome.ending.disagreement
            self._progress.line(f"int8: {share:.3f} % of the pixels of some tiles are of another class than in fp32")
