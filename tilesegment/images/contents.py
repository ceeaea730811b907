"""Which of the images of a file is opened, and what is said of the others."""

from collections.abc import Sequence

from tilesegment.errors import ImageError

_LISTED = 4  # others that a note names
# what slides hold besides the slide, by their names in tifffile: nobody means to segment them
_ASSOCIATED = ("thumbnail", "label", "macro", "overview", "map")


def chosen_series(path: str, series: int | None, contents: Sequence[str], default: int) -> int:
    """The number of the image to open: `series`, or `default` if that is None.

    Raises:
        ImageError: there is no such image; the message names some that there are.
    """
    if series is None:
        return default
    if not 0 <= series < len(contents):
        listed = "; ".join(f"{number}: {words}" for number, words in enumerate(contents[:_LISTED]) if words)
        raise ImageError(
            f"{path} has no series {series}: choose one from 0 to {len(contents) - 1}"
            + (f" ({listed})" if listed else "")
        )
    return series


def others_note(path: str, contents: Sequence[str], chosen: int) -> tuple[str, ...]:
    """One sentence on the other images of a file; none where there are none but those that go with a slide."""
    others = [
        f"{number}: {words}"
        for number, words in enumerate(contents)
        if number != chosen and not words.lower().startswith(_ASSOCIATED)
    ]
    if not others:
        return ()
    more = f"; and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    images = "1 other image" if len(others) == 1 else f"{len(others)} other images"
    return (
        f"{path} holds {images} besides number {chosen} ({contents[chosen]}), which is read: "
        f"{'; '.join(others[:_LISTED])}{more}; --series N chooses one",
    )


def inverted_in_vain(path: str) -> tuple[str, ...]:
    """What is said where a file is to be inverted that counts from black."""
    return (f"{path} does not say that 0 is white: --invert changes nothing",)
