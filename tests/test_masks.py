"""Writing block by block, going on, what is refused, what is never damaged."""

import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, MaskWriter, create_mask, create_probabilities, is_complete, open_mask
from tilesegment.masks.pyramid import Tally, build_levels, halve
from tilesegment.masks.spec import Grid
from tilesegment.masks.store import create_array
from tilesegment.metadata import LabelClass, PixelSize, default_colours

CLASSES = tuple(LabelClass(f"class {i}", colour) for i, colour in enumerate(default_colours(4)))


def spec_of(shape: tuple[int, int], block: int = 32, chunk: int = 16, **changes: Any) -> MaskSpec:
    """A spec of four classes whose fingerprint is `{"model": "a", "tile": [64, 64]}`."""
    given: dict[str, Any] = {"depth": None, "pixel_size": None, "fingerprint": {"model": "a", "tile": (64, 64)}}
    return MaskSpec(shape=shape, block=block, chunk=chunk, classes=CLASSES, **(given | changes))


def ids_of(spec: MaskSpec, seed: int = 0) -> np.ndarray:
    """Random class ids (D, H, W)."""
    shape = (spec.depth or 1, *spec.shape)
    return np.random.default_rng(seed).integers(0, len(spec.classes), shape, dtype=np.uint8)


def fill(writer: MaskWriter, ids: np.ndarray, seed: int = 0) -> None:
    """Writes all blocks in a random order."""
    blocks = list(writer.base.blocks())
    random.Random(seed).shuffle(blocks)
    for region, z in blocks:
        writer.write(region, ids[z][region.slices], z)


def is_stored(writer: MaskWriter, region: Region, z: int = 0) -> bool:
    """Whether a block is."""
    block = writer.spec.block
    return bool(writer.survey().done[z, region.y0 // block, region.x0 // block])


def finished(path: Path, spec: MaskSpec, seed: int = 0, **options: Any) -> np.ndarray:
    """Writes a whole mask of random ids and returns these, (D, H, W)."""
    ids = ids_of(spec, seed)
    with create_mask(path, spec, **options) as writer:
        fill(writer, ids, seed)
        writer.finish()
    return ids


def naive_halve(ids: np.ndarray) -> np.ndarray:
    """Majority of 2 x 2, the smallest id of a tie, one window at a time."""
    height, width = -(-ids.shape[0] // 2), -(-ids.shape[1] // 2)
    windows = [ids[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel() for y in range(height) for x in range(width)]
    return np.array([np.bincount(window).argmax() for window in windows], np.uint8).reshape(height, width)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(2, 256), st.integers(0, 2**32 - 1))
def test_halving_is_the_majority_of_each_window(height: int, width: int, classes: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    assert np.array_equal(halve(ids), naive_halve(ids))


def test_halving_every_window_of_four_classes() -> None:
    windows = np.stack(np.meshgrid(*[np.arange(4, dtype=np.uint8)] * 4), axis=-1).reshape(-1, 2, 2)
    strip = np.concatenate(list(windows), axis=1)
    assert np.array_equal(halve(strip), naive_halve(strip))


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    depth=st.none() | st.integers(1, 2),
    cut=st.sampled_from([(1, 32), (2, 16), (1, 17), (3, 7)]),
    ngff=st.sampled_from(["0.4", "0.5"]),
    seed=st.integers(0, 99),
)
def test_what_is_written_in_any_order_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    depth: int | None,
    cut: tuple[int, int],
    ngff: str,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("masks") / "mask.zarr"
    spec = spec_of(shape, cut[0] * cut[1], cut[1], depth=depth)
    ids = finished(path, spec, seed, ngff=ngff)
    mask = open_mask(path)
    rng = random.Random(seed)
    for z in range(depth or 1):
        y0, x0 = rng.randrange(shape[0]), rng.randrange(shape[1])
        region = Region(y0, x0, rng.randint(y0 + 1, shape[0]), rng.randint(x0 + 1, shape[1]))
        assert np.array_equal(mask.read(region, z=z), ids[z][region.slices])
        assert np.array_equal(mask.read(Region.of_shape(shape), z=z), ids[z])
    plain = zarr.open_group(path, mode="r")["0"]
    assert isinstance(plain, zarr.Array)
    assert np.array_equal(np.asarray(plain[...]).reshape(ids.shape), ids)


@pytest.mark.parametrize(
    ("shape", "block", "chunk"), [((1100, 1501), 512, 64), ((513, 1), 96, 32), ((2, 1027), 135, 5)]
)
def test_levels_are_halved_until_they_fit_512_pixels(
    tmp_path: Path, shape: tuple[int, int], block: int, chunk: int
) -> None:
    spec = spec_of(shape, block, chunk)
    ids = finished(tmp_path / "mask.zarr", spec)[0]
    mask = open_mask(tmp_path / "mask.zarr")
    expected = ids
    for level, array in enumerate(mask.levels):
        assert np.array_equal(mask.read(Region.of_shape(array.grid.shape), level), expected)
        assert (max(expected.shape) <= 512) == (level == len(mask.levels) - 1)
        expected = halve(expected)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    depth=st.none() | st.integers(1, 2),
    cut=st.sampled_from([(1, 32), (2, 16), (1, 17), (3, 7), (2, 9)]),
    halvings=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    floor=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_level_is_the_one_before_it_halved_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    depth: int | None,
    cut: tuple[int, int],
    halvings: list[int],
    floor: bool,
    seed: int,
) -> None:
    """Sides are rounded up, or down as those of the image: then a last odd row or column is left out."""
    floor &= min(shape) >> sum(halvings) > 0
    folder = tmp_path_factory.mktemp("levels")
    zarr.create_group(folder)
    grid = Grid(shape, depth, None, cut[0] * cut[1], cut[1], 3, floor=floor)
    counts = [0, *np.cumsum(halvings).tolist()]
    levels = [create_array(folder / str(level), grid.halved(count)) for level, count in enumerate(counts)]
    ids = np.random.default_rng(seed).integers(0, 4, (depth or 1, *shape), dtype=np.uint8)
    for region, z in levels[0].blocks():
        levels[0].write(region, ids[z][region.slices], z)
    tally = Tally(4)
    build_levels(levels, counts, tally)
    assert tally.pixels.tolist() == np.bincount(ids.ravel(), minlength=4).tolist()
    for z, plane in enumerate(ids):
        for level, count in zip(levels[1:], halvings, strict=True):
            for _ in range(count):
                plane = halve(plane[: len(plane) // 2 * 2, : plane.shape[1] // 2 * 2] if floor else plane)
            assert level.shape == plane.shape
            assert np.array_equal(level.read(Region.of_shape(plane.shape), z), plane)


def test_a_finished_mask_tells_what_it_is(tmp_path: Path) -> None:
    spec = spec_of((40, 50), pixel_size=PixelSize(0.5, 0.25), offset=(3, 4), provenance={"version": "1"})
    writer = create_mask(tmp_path / "mask.zarr", spec)
    fill(writer, ids_of(spec))
    writer.finish({"seconds": 2.5})
    mask = open_mask(tmp_path / "mask.zarr")
    assert (mask.spec.shape, mask.spec.classes, mask.spec.pixel_size) == ((40, 50), CLASSES, PixelSize(0.5, 0.25))
    assert mask.spec.fingerprint == {"model": "a", "tile": [64, 64]}
    assert mask.spec.provenance == {"version": "1", "seconds": 2.5}
    assert names(tmp_path) == ["mask.zarr"]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_background_is_stored_and_counts_as_done(tmp_path: Path, ngff: str) -> None:
    spec = spec_of((70, 70))
    writer = create_mask(tmp_path / "mask.zarr", spec, ngff=ngff)
    region = Region(64, 64, 70, 70)
    assert not is_stored(writer, region)
    writer.write(region, np.zeros((6, 6), np.uint8))
    assert is_stored(writer, region)
    assert is_stored(create_mask(tmp_path / "mask.zarr", spec, ngff=ngff), region)
    assert not is_stored(writer, Region(0, 0, 32, 32))


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif", "mask.png"])
def test_a_mask_is_gone_on_with(tmp_path: Path, name: str) -> None:
    spec = spec_of((70, 100), provenance={"started": 1})
    ids = ids_of(spec)[0]
    writer = create_mask(tmp_path / name, spec)
    blocks = list(writer.base.blocks())
    for region, z in blocks[:5]:
        writer.write(region, ids[region.slices], z)
    with pytest.raises(MaskError, match="lacks 7 blocks"):
        writer.finish()
    assert names(tmp_path) == [f"{name}.partial"]

    again = create_mask(tmp_path / name, spec_of((70, 100), provenance={"started": 2}))
    done = [is_stored(again, *block) for block in blocks]
    assert done == [True] * 5 + [False] * 7
    for region, z in blocks[5:]:
        again.write(region, ids[region.slices], z)
    again.finish()
    assert names(tmp_path) == [name]


def test_blocks_of_zarr_2_are_done_when_all_their_chunks_are(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((64, 64)), ngff="0.4")
    region = Region(0, 0, 32, 32)
    writer.write(region, np.ones((32, 32), np.uint8))
    assert is_stored(writer, region)
    writer.base.objects(region, 0)[3].unlink()
    assert not is_stored(writer, region)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    writer.write(Region(0, 0, 32, 32), np.ones((32, 32), np.uint8))
    other = spec_of((70, 71), fingerprint={"model": "b", "tile": (64, 64), "overlap": True})
    with pytest.raises(MaskError, match=r"was begun with other settings") as caught:
        create_mask(tmp_path / "mask.zarr", other)
    message = str(caught.value)
    assert "model: 'a' there, 'b' now" in message
    assert "shape: [70, 70] there, [70, 71] now" in message
    assert "overlap: none there, True now" in message
    assert "tile" not in message.split("(")[1].split(")")[0]
    assert "\n" not in message


def test_overwrite_begins_anew_only_with_other_settings(tmp_path: Path) -> None:
    path, region = tmp_path / "mask.zarr", Region(0, 0, 32, 32)
    writer = create_mask(path, spec_of((70, 70)))
    writer.write(region, np.ones((32, 32), np.uint8))
    assert is_stored(create_mask(path, spec_of((70, 70)), overwrite=True), region)
    assert not is_stored(create_mask(path, spec_of((70, 70), fingerprint={}), overwrite=True), region)


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif", "mask.png"])
def test_an_output_is_replaced_only_when_asked_and_complete(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    spec = spec_of((40, 40))
    finished(path, spec, seed=1)
    before = {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
    with pytest.raises(MaskError, match="exists; name another output, or use --overwrite"):
        create_mask(path, spec)

    writer = create_mask(path, spec, overwrite=True)
    writer.write(Region(0, 0, 32, 32), np.ones((32, 32), np.uint8))
    with pytest.raises(MaskError, match="lacks 3 blocks"):
        writer.finish()
    assert {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()} == before

    fill(writer, ids_of(spec, seed=2))
    writer.finish()
    assert {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()} != before
    assert names(tmp_path) == [name]


def test_a_mask_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    spec = spec_of((20, 20))
    writer = create_mask(tmp_path / "mask.tif", spec)
    fill(writer, ids_of(spec))
    (tmp_path / "mask.tif").write_bytes(b"another run's")
    with pytest.raises(MaskError, match="exists"):
        writer.finish()
    assert (tmp_path / "mask.tif").read_bytes() == b"another run's"


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif", "mask.png"])
@pytest.mark.parametrize("place", ["{}", "{}.partial"])
def test_foreign_folders_are_never_deleted(tmp_path: Path, name: str, place: str) -> None:
    foreign = tmp_path / place.format(name)
    foreign.mkdir()
    (foreign / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}')
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(MaskError, match=r"not made by tilesegment|is not a file"):
        create_mask(tmp_path / name, spec_of((20, 20)), overwrite=True)
    assert names(foreign) == ["thesis.txt", "zarr.json"]


def test_what_cannot_be_an_output_is_refused_at_once(tmp_path: Path) -> None:
    spec = spec_of((20, 20))
    (tmp_path / "file").write_text("")
    (tmp_path / "real.tif").write_text("")
    (tmp_path / "link.tif").symlink_to(tmp_path / "real.tif")
    (tmp_path / "held.zarr").write_text("")
    for name, message in [
        ("mask.bmp", r"allowed are NAME\.zarr, IMAGE\.zarr/labels/NAME, NAME\.tif and NAME\.png"),
        ("mask.jpg", "allowed are"),
        ("labels/cells", "allowed are"),
        ("nowhere/mask.zarr", "there is no folder"),
        ("file/mask.zarr", "there is no folder"),
        ("link.tif", "symbolic link"),
        ("held.zarr", "not made by tilesegment"),
        (f"{'n' * 250}.zarr", "cannot create .*: File name too long"),
    ]:
        with pytest.raises(MaskError, match=message) as caught:
            create_mask(tmp_path / name, spec, overwrite=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(MaskError, match=r"version '0\.6' is not written; allowed are 0\.4 and 0\.5"):
        create_mask(tmp_path / "mask.zarr", spec, ngff="0.6")
    with pytest.raises(MaskError, match="at most one plane of 64 megapixels"):
        create_mask(tmp_path / "mask.png", spec_of((8001, 8000)))
    with pytest.raises(MaskError, match="cannot hold 3 x 20 x 20 pixels"):
        create_mask(tmp_path / "mask.png", spec_of((20, 20), depth=3))
    with pytest.raises(MaskError, match=r"allowed is NAME\.zarr"):
        create_probabilities(tmp_path / "p.tif", spec)
    assert names(tmp_path) == ["file", "held.zarr", "link.tif", "real.tif"]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_threads_write_different_blocks_with_a_pickled_writer(tmp_path: Path, ngff: str) -> None:
    spec = spec_of((90, 120))
    ids = ids_of(spec)[0]
    writer = create_mask(tmp_path / "mask.zarr", spec, ngff=ngff)
    twin = pickle.loads(pickle.dumps(writer))
    blocks = list(writer.base.blocks())
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit((writer, twin)[number % 2].write, region, ids[region.slices], z)
            for number, (region, z) in enumerate(blocks)
        ]
        for job in jobs:
            job.result()
    writer.finish()
    assert np.array_equal(open_mask(tmp_path / "mask.zarr").read(Region.of_shape(spec.shape)), ids)


@pytest.mark.parametrize("depth", [None, 2])
def test_probabilities(tmp_path: Path, depth: int | None) -> None:
    spec = spec_of((70, 50), depth=depth)
    values = np.random.default_rng(0).random((4, depth or 1, 70, 50), dtype=np.float32)
    writer = create_probabilities(tmp_path / "p.zarr", spec)
    for region, z in writer.base.blocks():
        writer.write(region, values[(slice(None), z, *region.slices)], z)
    assert is_stored(create_probabilities(tmp_path / "p.zarr", spec), Region(0, 0, 32, 32))
    writer.finish()
    array = zarr.open_group(tmp_path / "p.zarr", mode="r")["0"]
    assert isinstance(array, zarr.Array)
    assert (array.chunks[0], array.shards and array.shards[0]) == (1, 4)
    assert np.array_equal(np.asarray(array[...]).reshape(values.shape), values)
    with pytest.raises(MaskError, match="holds probabilities, no mask"):
        open_mask(tmp_path / "p.zarr")
    with pytest.raises(MaskError, match="exists"):
        create_probabilities(tmp_path / "p.zarr", spec)


@pytest.mark.parametrize("values", ["float32", "uint8"])
@pytest.mark.parametrize("depth", [None, 2])
def test_smaller_levels_of_probabilities_are_means(tmp_path: Path, values: str, depth: int | None) -> None:
    spec = spec_of((1100, 701), 512, 256, depth=depth)
    likely = np.random.default_rng(0).random((4, depth or 1, 1100, 701), np.float32)
    likely = np.rint(likely * 255).astype(np.uint8) if values == "uint8" else likely
    writer = create_probabilities(tmp_path / "p.zarr", spec, values=values)
    for region, z in writer.base.blocks():
        writer.write(region, likely[(slice(None), z, *region.slices)], z)
    writer.finish()
    assert is_complete(tmp_path / "p.zarr", spec, probabilities=True, values=values)
    group = zarr.open_group(tmp_path / "p.zarr", mode="r")
    for level, shape in enumerate([(1100, 701), (550, 351), (275, 176)]):
        found = np.asarray(group[str(level)])
        assert (found.dtype, found.shape[-2:]) == (values, shape)
        if level == 0:
            assert np.array_equal(found.reshape(likely.shape), likely)
        means = likely.reshape(4, depth or 1, 1100, 701)[..., :1024, :512].astype(float)
        side = 2**level
        means = means.reshape(4, depth or 1, 1024 // side, side, 512 // side, side).mean((3, 5))
        inner = found.reshape(4, depth or 1, *shape)[..., : 1024 // side, : 512 // side]
        # whole numbers are rounded once a level
        assert np.abs(inner - means).max() <= (1.0 if values == "uint8" else 1e-6)
    odd = np.asarray(group["1"])[..., -1]
    last = likely[..., -1].reshape(4, depth or 1, 550, 2).astype(float).mean(-1)
    assert np.abs(odd.reshape(last.shape) - last).max() <= 0.51


def test_the_package_is_imported_without_zarr() -> None:
    code = "import sys, tilesegment.masks; print([name for name in ('zarr', 'tifffile', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
