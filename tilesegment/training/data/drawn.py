"""Find images whose labels are outlines: GeoJSON, labelme or COCO."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

from tilesegment.errors import DataError, one_line
from tilesegment.labels.annotations import is_annotation, kind_of, read_coco
from tilesegment.labels.coco import CocoImage
from tilesegment.labels.files import Listing, is_folder_of_files, list_images, match_stems, some_of, stem_of
from tilesegment.labels.geojson import is_geojson
from tilesegment.training.data.pairs import Layout, Pair, words_of

_FOLDERS = ("images", "imgs", "image", "img")  # of images, in any case
ANNOTATIONS = ("annotations", "annotation", "geojson", "json", "labels", "masks")  # of outlines, in any case
_PARTS = {"train": ("train",), "training": ("train",), "val": ("val",), "valid": ("val",), "validation": ("val",)}
_OF_ONE = ("geojson", "labelme")  # kinds of files that hold the objects of one image
_OTHER_COCO = ("captions", "panoptic", "person_keypoints", "stuff", "image_info")


def list_drawn(folder: Path, stems: Mapping[str, object]) -> Listing:
    """List the files of outlines in `folder`: GeoJSON, and JSON of labelme or named as one of the images `stems`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not is_annotation(path):
            continue
        stem = stem_of(path)
        stem = stem if stem in stems or stem_of(Path(stem)) not in stems else stem_of(Path(stem))  # a.png.geojson
        named = match_stems([stem], list(stems))[stem] is not None
        if not is_geojson(path) and not named and kind_of(path) not in ("labelme", "geojson"):
            continue
        if (other := found.setdefault(stem, path)) != path:
            raise DataError(f"{folder} holds the labels {other.name} and {path.name} of one image; keep one of them")
    return Listing(folder, found, (), ())


def beside_images(folder: Path) -> Layout | None:
    """Images and their outlines in one folder, as labelme keeps them, or outlines in a folder beside images/."""
    images = list_images(folder)
    stems = {stem: path for stem, path in images.images.items() if path.is_file()}
    drawn = list_drawn(folder, stems) if stems else Listing(folder, {}, (), ())
    if any(kind_of(path) in _OF_ONE for path in drawn.images.values()):
        layout = _paired(stems, drawn)
        return replace(layout, words=words_of(layout.pairs))
    for one, other in product(_named(folder, _FOLDERS), _named(folder, ANNOTATIONS)):
        stems = list_images(one).images
        drawn = list_drawn(other, stems)
        if any(kind_of(path) in _OF_ONE for path in drawn.images.values()):
            return replace(_paired(stems, drawn), words=f"{one.name}/ and {other.name}/, paired by name")
    return None


def _paired(images: Mapping[str, Path], drawn: Listing) -> Layout:
    """Pair images with outlines by their stems; images without outlines are left out."""
    matched = match_stems(drawn.images, images)
    alone = [drawn.images[stem] for stem, image in matched.items() if image is None]
    if alone:
        raise DataError(f"{alone[0]} has no image; expected {stem_of(alone[0])}.*, or remove it ({len(alone)} such)")
    pairs = {image: Pair(image, (images[image],), drawn.images[stem]) for stem, image in matched.items() if image}
    left = sorted(path.name for stem, path in images.items() if stem not in pairs)
    warnings = (f"{some_of(left)}: no label, left out",) if left else ()
    return Layout("", tuple(pairs[name] for name in sorted(pairs)), warnings=warnings)


def coco(folder: Path, part: str = "") -> Layout | None:
    """The images of COCO files in `folder` or in its folder annotations/.

    Of several files, such as instances_train.json and instances_val.json, `part` names the wanted ones; "" wants those
    that name neither.
    """
    folders = [folder, *_named(folder, ANNOTATIONS)]
    wanted = _PARTS.get(part, (part,) if part else ())
    files = [path for one in folders for path in sorted(one.glob("*.json")) if _is_of(path, wanted)]
    files = [path for path in files if kind_of(path) == "coco"]
    if not files:
        return None
    listed = [(path, image) for path in files for image in read_coco(path)]
    pairs, missing = dict[str, Pair](), list[str]()
    for path, image in listed:
        there = next((one for one in _places(folder, path, image) if one.is_file()), None)
        if there is None:
            missing.append(one_line(image.file_name, 60))
            continue
        pair = Pair(stem_of(there), (there,), path, image.file_name)
        if pair.name in pairs:
            pair = replace(pair, name=str(Path(image.file_name).with_suffix("")))
        if pair.name in pairs:
            raise DataError(
                f"{path} lists the image {one_line(image.file_name, 60)} again, as {pairs[pair.name].label} does"
            )
        pairs[pair.name] = pair
    if not pairs:
        raise DataError(
            f"{files[0]} lists {len(missing)} images, such as {some_of(missing, 1)}, and none is in {folder}/ or in "
            f"{folder / 'images'}/; move them there"
        )
    words = f"{', '.join(str(path.relative_to(folder)) for path in files)} (COCO) and the images listed there"
    return Layout(words, tuple(pairs[name] for name in sorted(pairs)), warnings=tuple(_left(pairs, files, missing)))


def _left(pairs: Mapping[str, Pair], files: list[Path], missing: list[str]) -> Iterator[str]:
    """Say what is left out."""
    if missing:
        yield f"{files[0].name} lists {len(missing)} images that are missing and left out: {some_of(missing)}"
    folders = sorted({pair.images[0].parent for pair in pairs.values()})
    used = {pair.images[0] for pair in pairs.values()}
    unlisted = [path.name for one in folders for path in list_images(one).images.values() if path not in used]
    if unlisted:
        yield f"{some_of(unlisted)}: not listed in {files[0].name}, left out"


def _is_of(path: Path, wanted: tuple[str, ...]) -> bool:
    """Whether a file by its name may hold the objects of one of the parts `wanted`, or of no part if there are none."""
    name = path.stem.lower()
    if name.startswith(_OTHER_COCO):
        return False
    parts = {part for part in ("train", "val", "test") if part in name}
    return bool(parts & set(wanted)) if wanted else not parts


def _places(folder: Path, path: Path, image: CocoImage) -> Iterator[Path]:
    """Where an image of the COCO file `path` may lie."""
    part = path.stem.lower().rpartition("_")[2]  # train2017 of instances_train2017
    for inner in (folder, *_named(folder, _FOLDERS)):
        for one in (inner, *_named(inner, (part,)), *_named(inner, [part.rstrip("0123456789")])):
            yield one / image.file_name
            yield one / Path(image.file_name).name


def _named(folder: Path, names: tuple[str, ...] | list[str]) -> list[Path]:
    """The folders in `folder` with one of these names, in any case."""
    return [one for one in sorted(folder.iterdir()) if one.name.lower() in names and is_folder_of_files(one)]
