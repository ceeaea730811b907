"""Progress of a prediction: one bar for all images, and a line for each that has ended."""

import time

import click

from tilesegment.errors import one_line
from tilesegment.geometry import Block
from tilesegment.prediction.result import FoundObjects, Listener, Progress, Result, peak_memory
from tilesegment_cli.progress import ProgressReport


class Screen(ProgressReport, Listener):
    """Show a run on stderr.

    Args:
        quiet: show nothing but errors.
        verbose: show each plan before it is carried out.
        many: whether there are many images, whose errors are shown as they end.
    """

    def __init__(self, quiet: bool, verbose: bool, many: bool) -> None:
        super().__init__(quiet)
        self.verbose, self.many = verbose, many
        self._noted: set[str] = set()
        self._found_from = 0.0

    def note(self, text: str) -> None:
        """Print a note on the run as a whole."""
        self.line(f"Note: {text}")

    def begun(self, result: Result) -> None:
        """Show the plan if wanted, the notes, and damaged blocks of an earlier run."""
        for name, value in result.decided.lines() if self.verbose else ():
            self.line(f"{name:<12}{value}")
        for note in (one for one in result.notes if one not in self._noted):
            self.note(note)
        self._noted.update(result.notes)
        if result.blocks_repaired:
            self.line(f"{result.out}: {result.blocks_repaired} damaged blocks are computed again")

    def progressed(self, result: Result, progress: Progress) -> None:
        """Move the bar."""
        megapixels = progress.pixels / 1e6
        images = f"{progress.ended} of {progress.images} images, " if self.many else ""
        speed = megapixels / max(progress.seconds, 1e-9)
        self.show(progress.share, f"{images}{megapixels:,.1f} Mpx, {speed:.2f} Mpx/s", progress.seconds)

    def finding(self, result: Result, share: float, what: str) -> None:
        """Move the bar on, over the objects of a single image; of many, others are still predicted."""
        if not self.many:
            self._found_from = self._found_from or time.monotonic()
            self.show(share, f"objects: {what}", time.monotonic() - self._found_from)

    def failed(self, result: Result, block: Block, error: Exception) -> None:
        """Name a block that failed while the others go on."""
        if not result.given_up and result.decided.blocks > 1:
            self.line(f"{error}; going on with the other blocks")

    def ended(self, result: Result) -> None:
        """Report the end of an image."""
        if result.errors and self.many:
            # printed even if quiet
            click.echo(f"Error: {result.image}: {one_line(result.errors[0])}", err=True)
        if result.errors or not result.finished:
            return
        speed = f"{result.pixels / 1e6:,.1f} Mpx in {result.seconds:,.1f} s ({result.mpx_per_s:.2f} Mpx/s)"
        facts = [f"{result.out}: {speed}"]
        if not self.many:
            facts.append(f"peak memory {peak_memory() / 1e9:.2f} GB")
        if result.blocks_resumed:
            facts.append(f"{result.blocks_resumed} blocks were done before")
        if result.blocks_skipped:
            why = "empty" if result.decided.roi is None else "empty or outside --roi"
            facts.append(f"{result.blocks_skipped} of {result.blocks} blocks were {why} and skipped")
        self.line(", ".join(facts) + ("" if result.complete else "; other parts are still to be done"))
        if result.objects is not None:
            for note in result.objects.notes:
                self.note(note)
            self.line(objects_line(result.objects))
        if result.batch < result.decided.batch:
            self.line(
                f"{result.decided.device} lacks the memory for {result.decided.batch} tiles at a time: {result.batch}"
            )
        halo = f"halo of {result.halo} px, chosen:"
        if result.mismatch is not None:
            share = f"{100 * result.mismatch:.3f} %"
            self.line(f"{halo} a larger one changes the class of {share} of the pixels near tile lines and borders")
        if result.unmeasured:
            self.line(f"{halo} its effect cannot be measured, as a larger one reaches pixels that cannot be read")
        if result.disagreement is not None:
            share = f"{100 * result.disagreement:.3f} %"
            self.line(f"int8: {share} of the pixels of some tiles are of another class than in fp32")


def objects_line(found: FoundObjects) -> str:
    """Say how many objects were found, and of which class, where there are several."""
    where = ", ".join(found.out)
    count = "1 object" if found.count == 1 else f"{found.count:,} objects"
    if len(found.by_class) > 1:
        count += f" ({', '.join(f'{number:,} {name}' for name, number in found.by_class.items())})"
    return f"{where}: {count} in {found.seconds:,.1f} s"
