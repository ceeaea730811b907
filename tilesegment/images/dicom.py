"""DICOM slides: through wsidicom, which reads all levels exactly, JPEG-LS and concatenations too; else OpenSlide."""

from collections.abc import Sequence

import numpy as np
from wsidicom import WsiDicom
from wsidicom.config import Settings

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region
from tilesegment.images.dicom_files import DicomFile, series_of
from tilesegment.images.layout import Choices, chosen_series, note_on_inversion
from tilesegment.images.openslide import open_openslide
from tilesegment.images.slide import SlideSource, check_choices, check_size, number, slide_frame
from tilesegment.images.source import About, ImageSource, Level, Shown
from tilesegment.metadata import reduction

_DECODED, _ENCODED = 64 << 20, 8 << 20  # bytes of frames that wsidicom keeps
_PICTURES = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
_SETTINGS = Settings(decoded_frame_cache_size=_DECODED, encoded_frame_cache_size=_ENCODED)


class WsiDicomSource(SlideSource):
    """A DICOM slide, its default focal plane and optical path."""

    def __init__(self, path: str, slide: WsiDicom, files: Sequence[DicomFile], notes: list[str]) -> None:
        """Take an open slide, which is closed with this, and its files."""
        self._slide, self._numbers = slide, [level.level for level in slide.levels]
        shapes = [(level.size.height, level.size.width) for level in slide.levels]
        check_size(path, shapes[0])
        sample = self._decode(Region(0, 0, 1, 1), 0)
        levels = [
            Level(shape, (reduction(shapes[0][0], shape[0]), reduction(shapes[0][1], shape[1]))) for shape in shapes
        ]
        tiles = [(level.tile_size.height, level.tile_size.width) for level in slide.levels]
        spacing = slide.levels[0].default_instance.pixel_spacing
        mpp = None if spacing is None else (spacing.height * 1000, spacing.width * 1000)
        frame, shown = slide_frame(path, mpp, notes), Shown(notes=notes, about=_about(files))
        super().__init__(path, "DICOM", levels, tiles, sample.dtype, len(sample), frame, shown)

    def _decode(self, region: Region, level: int) -> np.ndarray:
        place, size = (region.x0, region.y0), (region.width, region.height)
        pixels = self._slide.read_region(place, self._numbers[level], size, as_array=True)
        return np.atleast_3d(pixels).transpose(2, 0, 1)

    @property
    def cache_bytes(self) -> int:
        """Also of the frames that wsidicom keeps."""
        return super().cache_bytes + _DECODED + _ENCODED

    def close(self) -> None:
        """Close the files and drop what is kept."""
        super().close()
        self._slide.close()


def open_dicom(path: str, choices: Choices) -> ImageSource:
    """Open the DICOM slide in a folder, or the one that a file belongs to."""
    check_choices(path, choices)
    files = series_of(path)
    levels = [one for one in files if one.kind == "VOLUME"]
    if not levels:
        kinds = ", ".join(sorted({one.kind.lower() or "unknown" for one in files}))
        raise ImageError(f"{path} is of a slide that is not there, only its {kinds}: add the files of its levels")
    _check_parts(path, levels)
    notes = _notes_on(path, levels[0])
    try:
        slide = WsiDicom.open([one.path for one in files], settings=_SETTINGS)
    except Exception as error:  # of pydicom, of a codec, of wsidicom
        return _open_openslide(path, levels[0], choices, one_line(error, 200))
    try:
        chosen_series(path, choices.series, ())
        return WsiDicomSource(path, slide, files, [*notes, *note_on_inversion(path, choices.invert)])
    except BaseException:
        slide.close()
        raise


def _open_openslide(path: str, first: DicomFile, choices: Choices, refused: str) -> ImageSource:
    try:
        return open_openslide(path, choices, first.path)
    except ImageError as error:
        reason = error.__cause__ or error
        raise ImageError(
            f"{path} cannot be opened (wsidicom: {refused}; OpenSlide: {one_line(reason, 200)}): it is damaged, not "
            "complete, or of a kind that is not read: copy it again, or convert it to TIFF or OME-Zarr"
        ) from error


def _check_parts(path: str, levels: Sequence[DicomFile]) -> None:
    """Refuse levels of which a part is not there."""
    for whole in {one.concatenation for one in levels if one.concatenation}:
        parts = [one for one in levels if one.concatenation == whole]
        if len(parts) < parts[0].parts:
            raise ImageError(
                f"{path} lacks {parts[0].parts - len(parts)} of the {parts[0].parts} files of a level of "
                f"{' x '.join(map(str, parts[0].shape))} pixels: copy the whole series"
            )


def _notes_on(path: str, first: DicomFile) -> list[str]:
    """Say what the first level lacks, and which plane and which channel of several are read."""
    several = {"focal planes": first.planes, "optical paths": first.paths}
    notes = [f"{path} has {count} {what}: one of them is read" for what, count in several.items() if count > 1]
    if first.is_resampled:
        notes.append(f"{path} was reduced from a finer level, which is not there: add its file to have all pixels")
    return notes


def _about(files: Sequence[DicomFile]) -> About:
    pictures = {_PICTURES[one.kind]: one.shape for one in files if one.kind in _PICTURES}
    return About(files[0].maker, number(files[0].objective), pictures)
