"""The home of a mask: where it grows, how runs claim it, and how it gets its name."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tilesegment.masks.blocks import BlockArray, Survey
from tilesegment.masks.folder import Folder
from tilesegment.masks.spec import Grid, MaskSpec
from tilesegment.masks.target import Target
from tilesegment.stores import Location


class Home(Protocol):
    """Where one mask grows and gets its name; plain data, so that it can be pickled.

    A record is what `Target.record` returns. All methods raise MaskError, or OSError for the caller to explain.
    """

    @property
    def target(self) -> Target:
        """The output."""

    def opened(self) -> "Home":
        """Return the home of the mask that is in progress now, whose target says how its levels are called."""

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know about writing a mask here."""

    def check_free(self, record: Mapping[str, Any], overwrite: bool) -> None:
        """Check that the mask with the complete `record` can get its name, and that nothing there must be kept."""

    def is_begun(self) -> bool:
        """Return whether a mask of ours is in progress."""

    def record(self) -> dict[str, Any] | None:
        """Return the record of the mask in progress; None if there is none, or it is damaged."""

    def is_used(self) -> bool:
        """Return whether anything is stored of the mask in progress."""

    def begin(self, record: Mapping[str, Any], grid: Grid, *, anew: bool) -> None:
        """Begin a mask, unless another process has done so at the same moment; `anew` after another was discarded."""

    def discard(self) -> None:
        """Delete the mask in progress; call it under a claim that is not shared."""

    def is_open(self) -> bool:
        """Return whether the mask in progress is still there: another process may have finished it."""

    def base(self, grid: Grid) -> BlockArray:
        """Open level 0 of the mask in progress."""

    def level(self, number: int, grid: Grid) -> BlockArray:
        """Open level `number` of the mask in progress, making it if it is not there yet."""

    def finished_level(self, number: int, grid: Grid) -> BlockArray:
        """Open level `number` of the mask under its final name."""

    def survey(self, number: int, grid: Grid, *, finished: bool) -> Survey:
        """Look level `number` through, of the mask in progress or of the finished one, even if it cannot be opened."""

    def amend(self, changes: Mapping[str, Any]) -> None:
        """Change entries in the record of the mask in progress."""

    def claim(self, *, part: tuple[int, int] | None = None, to_finish: bool = False) -> AbstractContextManager[bool]:
        """Claim the mask in progress until the context or the process ends; yield whether it is still there.

        Args:
            part: (k, n): others may hold other parts; None claims all of it.
            to_finish: all blocks are stored: wait for others that do the same.
        """

    def publish(
        self,
        levels: Sequence[BlockArray],
        spec: MaskSpec,
        record: Mapping[str, Any],
        attributes: Mapping[str, Any],
        overwrite: bool,
    ) -> None:
        """Give the mask, all of whose `levels` are stored, its name; what is replaced stays whole until then.

        Args:
            levels, spec, record: what it is.
            attributes: of its group, where a group is what becomes of it.
            overwrite: replace what has its name.
        """

    def reopen(self, record: Mapping[str, Any], grid: Grid) -> None:
        """Turn a complete mask that is damaged into one in progress.

        Killed between any two steps, it is `partial` under its final name, and the next call goes on.
        """

    def tidy(self, record: Mapping[str, Any]) -> None:
        """Delete what a run killed at its very end has left beside the complete mask with this record."""


def home_of(target: Target) -> Home:
    """Return where the output grows."""
    if not isinstance(target.path, Location):
        return Folder(target)
    from tilesegment.masks.bucket import Bucket

    return Bucket(target)


def check_free(target: Target, spec: MaskSpec, overwrite: bool) -> None:
    """Check that the output can get its final name: its folder exists, and nothing there must be kept."""
    home_of(target).check_free(target.record(spec, "complete"), overwrite)
