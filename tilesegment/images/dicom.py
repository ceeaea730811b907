"""DICOM slides: through OpenSlide; through wsidicom where that refuses them, as JPEG-LS, 16 bits, concatenations."""

import numpy as np
from wsidicom import WsiDicom

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region
from tilesegment.images.dicom_files import DicomFile, series_of
from tilesegment.images.layout import Choices, chosen_series, note_on_inversion
from tilesegment.images.openslide import open_openslide
from tilesegment.images.slide import SlideSource, check_choices, check_size, number, slide_frame
from tilesegment.images.source import About, ImageSource, Level, Shown
from tilesegment.metadata import reduction


class WsiDicomSource(SlideSource):
    """A DICOM slide, its default focal plane and optical path."""

    def __init__(self, path: str, slide: WsiDicom, first: DicomFile, notes: list[str]) -> None:
        """Take an open slide, which is closed with this, and the file of its level 0."""
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
        frame, shown = slide_frame(path, mpp, notes), Shown(notes=notes, about=_about(slide, first))
        super().__init__(path, "DICOM", levels, tiles, sample.dtype, len(sample), frame, shown)

    def _decode(self, region: Region, level: int) -> np.ndarray:
        place, size = (region.x0, region.y0), (region.width, region.height)
        pixels = self._slide.read_region(place, self._numbers[level], size, as_array=True)
        return np.atleast_3d(pixels).transpose(2, 0, 1)

    def close(self) -> None:
        """Close the files and drop what is kept."""
        super().close()
        self._slide.close()


def open_dicom(path: str, choices: Choices) -> ImageSource:
    """Open the DICOM slide in a folder, or the one that a file belongs to."""
    check_choices(path, choices)
    files = series_of(path)
    volume = [one for one in files if one.kind == "VOLUME"]
    if not volume:
        kinds = ", ".join(sorted({one.kind.lower() or "unknown" for one in files}))
        raise ImageError(f"{path} is of a slide that is not there, only its {kinds}: add the files of its levels")
    if any(one.is_part for one in volume):
        return _open_wsidicom(path, files, choices)
    try:
        source = open_openslide(volume[0].path, choices)
    except ImageError as refused:
        try:
            return _open_wsidicom(path, files, choices)
        except ImageError as error:
            raise ImageError(f"{error}; OpenSlide: {refused}") from error
    source.path = path
    return source


def _open_wsidicom(path: str, files: list[DicomFile], choices: Choices) -> WsiDicomSource:
    chosen_series(path, choices.series, ())
    notes = note_on_inversion(path, choices.invert)
    try:
        slide = WsiDicom.open([one.path for one in files])
    except Exception as error:  # of pydicom, of a codec, of wsidicom
        raise ImageError(f"{path} cannot be opened ({one_line(error, 200)}): it is damaged or not complete") from error
    try:
        return WsiDicomSource(path, slide, files[0], notes)
    except BaseException:
        slide.close()
        raise


def _about(slide: WsiDicom, first: DicomFile) -> About:
    pictures = (("label", slide.labels), ("macro", slide.overviews))
    shapes = {name: (group[0].size.height, group[0].size.width) for name, group in pictures if group}
    return About(first.maker, number(first.objective), shapes)
