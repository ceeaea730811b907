"""CZI of Zeiss and VSI of Olympus through slideio: scenes as series, channels, z planes and time points.

Of a pyramid only level 0 is shown: no file was at hand whose coarser levels could be checked to read without seams.
"""

import threading
from pathlib import Path

import numpy as np
import slideio

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region
from tilesegment.images.companions import companions
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.source import About, ImageSource, Level, Shown
from tilesegment.metadata import Frame, Spacing

_AXES = "tczyx"
_ETS = b"SIS\0"  # the first bytes of the files of pixels of a VSI
_VENDORS = {"CZI": "Zeiss", "VSI": "Olympus"}


class SlideioSource(ImageSource):
    """A scene of a slide; slideio reads in one thread at a time."""

    def __init__(
        self, path: str, driver: str, slide: slideio.Slide, scene: slideio.Scene, layout: Layout, shown: Shown
    ) -> None:
        dtype = np.dtype(str(scene.get_channel_data_type(0)))
        levels = [Level(layout.plane, (1.0, 1.0))]
        super().__init__(path, driver, levels, layout.depth, layout.channels, dtype, _frame(scene), shown)
        self._slide, self._scene, self._layout = slide, scene, layout
        self._lock = threading.Lock()

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        times, channels, planes = self._layout.index(region, z)[:3]
        # of time points and planes a single one is read
        frame, plane = (one if isinstance(one, int) else 0 for one in (times, planes))
        numbers = [channels] if isinstance(channels, int) else list(range(channels.start, channels.stop))
        if not region.area:
            return np.empty((len(numbers), *region.shape), self.stored_dtype)
        with self._lock:
            pixels = self._scene.read_block(
                rect=(region.x0, region.y0, region.width, region.height),
                channel_indices=numbers,
                slices=(plane, plane + 1),
                frames=(frame, frame + 1),
            )
        return pixels.reshape(*region.shape, len(numbers)).transpose(2, 0, 1)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._scene.close()
            self._slide.close()


def open_czi(path: str, choices: Choices) -> SlideioSource:
    """Open a CZI or VSI without reading a pixel; a series is a scene.

    Raises:
        ImageError: it is damaged, the folder of a VSI is missing, or its channels are of several types.
    """
    if choices.axes is not None:
        raise ImageError(f"{path} says what its axes are: leave out --axes {choices.axes}")
    driver = "VSI" if path.lower().endswith(".vsi") else "CZI"
    if driver == "VSI":
        _check_vsi(path)
    slideio.set_log_level("FATAL")  # faults are raised
    slide = slideio.open_slide(path, driver)
    try:
        scenes = [slide.get_scene(number) for number in range(slide.num_scenes)]
        if not scenes:
            raise ImageError(f"{path} holds no image: it is damaged")
        areas = [scene.size[0] * scene.size[1] for scene in scenes]
        contents = [_in_words(scene) for scene in scenes] if len(scenes) > 1 else []
        number, notes = chosen_series(path, choices.series, contents, areas.index(max(areas)))
        scene = scenes[number]
        types = {str(scene.get_channel_data_type(n)) for n in range(scene.num_channels)}
        if len(types) > 1:
            raise ImageError(f"{path} has channels of {', '.join(sorted(types))}: export them to separate files")
        shape = (scene.num_t_frames, scene.num_channels, scene.num_z_slices, *scene.size[::-1])
        layout = arrange(path, tuple(_AXES), tuple(max(side, 1) for side in shape[:3]) + shape[3:], choices.select)
        notes += note_on_inversion(path, choices.invert)
        if scene.num_zoom_levels > 1:
            notes.append(f"{path} has {scene.num_zoom_levels} levels, of which level 0 is read")
        shown = Shown(notes=notes, contents=contents, about=_about(driver, slide, scene))
        return SlideioSource(path, driver, slide, scene, layout, shown)
    except BaseException:
        slide.close()
        raise


def _check_vsi(path: str) -> None:
    """Refuse a VSI without its pixels: of these slideio would show the overview, without a word."""
    stored = [file for folder in companions(path) for file in sorted(Path(folder).rglob("*.ets"))]
    if not stored:
        raise ImageError(f"{path} is a VSI without its pixels: copy the folder _{Path(path).stem}_ beside it, too")
    for file in stored:
        with file.open("rb") as opened:
            if opened.read(4) != _ETS:
                raise ImageError(f"{path} is damaged: {file} holds no pixels: copy it again")


def _in_words(scene: slideio.Scene) -> str:
    width, height = scene.size
    return f"{one_line(scene.name, 40)}, {height} x {width} (y,x), {scene.num_channels} channel(s)"


def _frame(scene: slideio.Scene) -> Frame:
    """Return the frame; slideio gives metres, and 0 for what it does not know."""

    def spacing(side: float) -> Spacing:
        return Spacing(side, unit="m") if side > 0 else Spacing()

    x, y = scene.resolution
    return Frame(spacing(scene.z_resolution), spacing(y), spacing(x))


def _about(driver: str, slide: slideio.Slide, scene: slideio.Scene) -> About:
    names = slide.get_aux_image_names() if slide.num_aux_images else []
    sizes = {one_line(name, 40): slide.get_aux_image(name).size[::-1] for name in names}
    return About(_VENDORS[driver], scene.magnification or None, sizes)
