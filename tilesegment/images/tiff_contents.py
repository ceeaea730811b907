"""What a TIFF holds, and what its description claims that it holds: ImageJ's text, OME-XML, the chain of pages."""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PureWindowsPath
from xml.etree import ElementTree

from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from tilesegment.errors import ImageError, one_line
from tilesegment.images.tiff_metadata import size_in_xml

_MOST_LEFT = 10_000  # pages in no image that are looked at
_MOST_SAID = 3  # warnings of tifffile that are passed on
# kinds of files whose description says which pages belong to an image, so that others may be left
_CLAIMING = ("imagej", "ome", "shaped")


_LOGGER = logging.getLogger("tifffile")
_LISTENING = threading.Lock()


class _Listener(logging.Handler):
    """Keeps what is logged in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line of it."""
        if record.thread == self._thread:
            self.said.append(one_line(record.getMessage(), 200))


@contextmanager
def warnings_of_tifffile() -> Iterator[list[str]]:
    """What tifffile warns of in this thread meanwhile, to be told to the user; it would be lost in a log.

    Also where all logs are disabled, as the command line does, since libraries say there what our messages say better.
    """
    listener = _Listener()
    with _LISTENING:
        _LOGGER.addHandler(listener)
        _LOGGER.isEnabledFor = lambda level: level >= logging.WARNING  # type: ignore[method-assign]
        try:
            yield listener.said
        finally:
            del _LOGGER.isEnabledFor
            _LOGGER.removeHandler(listener)


def warning_notes(path: str, said: list[str]) -> tuple[str, ...]:
    """Notes of what tifffile warned of, the first of them each once; the orientation tag is ours to judge."""
    different = [text for text in dict.fromkeys(said) if "ORIENTATION" not in text]
    more = f" (and {len(different) - _MOST_SAID} more)" if len(different) > _MOST_SAID else ""
    return (f"{path}: tifffile warns: {'; '.join(different[:_MOST_SAID])}{more}",) if different else ()


def images_of(path: str, tiff: TiffFile) -> list[TiffPageSeries]:
    """The images of a file: those that tifffile finds, then those of pages that belong to none of them.

    Raises:
        ImageError: the file describes pages as one stack that are not alike, or holds no image.
    """
    try:
        series = list(tiff.series)
    except RuntimeError as error:
        if "keyframe" not in str(error):
            raise
        raise ImageError(
            f"{path} describes its pages as one stack, but they are not alike ({one_line(error, 200)}): "
            "export its images to files of their own"
        ) from error
    if not series:
        raise ImageError(f"{path} holds no image: it is damaged")
    return series + (_left(tiff, series) if series[0].kind in _CLAIMING else [])


def _left(tiff: TiffFile, series: list[TiffPageSeries]) -> list[TiffPageSeries]:
    """The pages that belong to none of `series`, as images of their own; reduced ones left out."""
    if len(tiff.pages) <= sum(planes_of(one) for one in series):
        return []
    levels = [level for one in series for level in one.levels]
    used = {page.treeindex[0] for level in levels for page in pages_of(level)}
    alike: dict[int, list[TiffPage]] = {}
    for number in [number for number in range(len(tiff.pages)) if number not in used][:_MOST_LEFT]:
        page = tiff.pages[number]
        whole = page.aspage() if isinstance(page, TiffFrame) else page
        if not whole.is_reduced and whole.dtype is not None:
            alike.setdefault(whole.hash, []).append(whole)
    return [_as_series(pages) for pages in alike.values()]


def _as_series(pages: list[TiffPage]) -> TiffPageSeries:
    page, count = pages[0], len(pages)
    if count == 1:
        return TiffPageSeries(pages, page.shape, page.dtype, page.axes, kind="generic")
    return TiffPageSeries(pages, (count, *page.shape), page.dtype, f"I{page.axes}", kind="generic")


def planes_of(series: TiffPageSeries) -> int:
    """How many pages the shape of a series asks for."""
    return max(math.prod(series.shape) // max(series.keyframe.size, 1), 1)


def pages_of(series: TiffPageSeries) -> list[TiffPage | TiffFrame]:
    """The pages of a series that are there; no more than its shape asks for."""
    return [page for page in series if page is not None][: planes_of(series)]


def in_words(series: TiffPageSeries) -> str:
    """An image of a file, for people."""
    sizes = " x ".join(map(str, series.shape))
    name = one_line(series.name, 40) if series.name else ""
    words = f"{sizes} ({','.join(series.axes.lower())}) {series.dtype}"
    return f"{name}, {words}" if name else words


def check_claims(path: str, tiff: TiffFile, series: list[TiffPageSeries]) -> tuple[str, ...]:
    """Compare what the description claims with what the file holds.

    Returns:
        Notes on what it says of other files, or what is not believed.

    Raises:
        ImageError: it claims more planes than there are.
    """
    if tiff.is_ome:
        return _check_ome(path, tiff, series)
    if tiff.is_imagej:
        _check_imagej(path, tiff, series[0])
    return ()


def _check_imagej(path: str, tiff: TiffFile, series: TiffPageSeries) -> None:
    said = tiff.imagej_metadata or {}
    images, channels, slices, frames = (
        _whole(said.get(name, 1)) for name in ("images", "channels", "slices", "frames")
    )
    page = series.keyframe
    samples = page.shaped[0] * page.shaped[4]
    # samples of a pixel may be declared as channels
    claimed = max(images, channels * slices * frames) // (samples if channels == samples else 1)
    held = len(tiff.pages)
    if series.kind == "imagej" and series.dataoffset:
        held = max(held, planes_of(series))
    if claimed > held:
        raise ImageError(
            f"{path} claims {claimed} planes in its ImageJ description, but holds {held} of {page.imagelength} x "
            f"{page.imagewidth}: it is truncated, or was changed without its description: copy or export it again"
        )


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 1


def _check_ome(path: str, tiff: TiffFile, series: list[TiffPageSeries]) -> tuple[str, ...]:
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return (f"{path} has OME-XML that cannot be read: its pages are taken as they lie in the file",)
    if root.find("{*}BinaryOnly") is not None:
        name = root.find("{*}BinaryOnly").get("MetadataFile", "another file")  # type: ignore[union-attr]
        return (
            f"{path} is one of several files, described in {one_line(name, 100)}: its {len(tiff.pages)} pages are "
            "taken as they lie in the file",
        )
    others = _other_files(root, tiff)
    pixels = root.findall("{*}Image/{*}Pixels")
    claimed = sum(map(_claimed, pixels))
    if others:
        return (
            f"{path} is one of {1 + len(others)} files of an image of {claimed} planes: only the "
            f"{len(tiff.pages)} pages in this one are read, as they lie in the file; the rest is in "
            f"{', '.join(others[:2])}{', ...' if len(others) > 2 else ''}: export them as one file to have all",
        )
    # what tifffile takes for one image holds all the planes of it or says which are missing
    held = len(tiff.pages)
    if claimed > held and not any(one.kind == "ome" and None not in [*one] for one in series):
        raise ImageError(
            f"{path} claims {claimed} planes in its OME-XML, but holds {held}: it is truncated, or was changed without "
            "its description: copy or export it again"
        )
    return _size_note(path, pixels, series)


def _size_note(path: str, pixels: "list[ElementTree.Element[str]]", series: list[TiffPageSeries]) -> tuple[str, ...]:
    """What is said where pages are not of the size that the OME-XML claims for them."""
    for said, one in zip(pixels, series, strict=False):
        claimed, page = size_in_xml(said), one.keyframe
        if claimed is not None and claimed != (page.imagelength, page.imagewidth):
            return (
                f"{path} has OME-XML of {claimed[0]} x {claimed[1]} pixels, but pages of {page.imagelength} x "
                f"{page.imagewidth}: its pixel size is not believed",
            )
    return ()


def _claimed(pixels: "ElementTree.Element[str]") -> int:
    """Pages that a Pixels element claims."""
    channel = pixels.find("{*}Channel")
    try:
        samples = int("1" if channel is None else channel.get("SamplesPerPixel", "1"))
        return math.prod(int(pixels.get(f"Size{axis}", "1")) for axis in "ZCT") // max(samples, 1)
    except ValueError:
        return 0


def _other_files(root: "ElementTree.Element[str]", tiff: TiffFile) -> list[str]:
    """Names of the other files that hold planes of what OME-XML describes."""
    own = {root.get("UUID"), None}
    names: dict[str, None] = {}
    for uuid in root.iterfind("{*}Image/{*}Pixels/{*}TiffData/{*}UUID"):
        name = uuid.get("FileName", "")
        if uuid.text not in own and name.lower() != tiff.filename.lower():
            names[one_line(PureWindowsPath(name).name or "an unnamed file", 100)] = None
    return list(names)
