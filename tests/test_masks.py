"""Masks written block by block and read back: levels, probabilities, what is stored, what is damaged."""

import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_files import CLASSES, PROCESSES, fill, finished, ids_of, names, rewrite, spec_of

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks import MaskWriter, create_mask, create_probabilities, is_complete, open_mask, status
from tilesegment.masks.pyramid import Tally, build_levels, halve
from tilesegment.masks.spec import Grid
from tilesegment.masks.store import create_array, survey
from tilesegment.metadata import PixelSize

FIRST = Region(0, 0, 32, 32)
ONES = np.ones((32, 32), np.uint8)
CUTS = st.sampled_from([(1, 32), (2, 16), (1, 17), (3, 7), (2, 9)])
SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated by a byte": lambda content: content[:-1],
    "truncated by half": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "followed by garbage": lambda content: content + b"\0" * 7,
    "twice": lambda content: content + content,
    "empty": lambda content: b"",
    "too short for anything": lambda content: content[:3],
}


def naive_halve(ids: np.ndarray) -> np.ndarray:
    """Majority of 2 x 2, the smallest id of a tie, one window at a time."""
    height, width = -(-ids.shape[0] // 2), -(-ids.shape[1] // 2)
    windows = [ids[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel() for y in range(height) for x in range(width)]
    return np.array([np.bincount(window).argmax() for window in windows], np.uint8).reshape(height, width)


def stored(writer: MaskWriter, region: Region) -> bool:
    block = writer.spec.block
    return bool(writer.survey().done[0, region.y0 // block, region.x0 // block])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(2, 256), st.integers(0, 2**32 - 1))
def test_halving_is_the_majority_of_each_window(height: int, width: int, classes: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    assert np.array_equal(halve(ids), naive_halve(ids))


def test_halving_every_window_of_four_classes() -> None:
    windows = np.stack(np.meshgrid(*[np.arange(4, dtype=np.uint8)] * 4), axis=-1).reshape(-1, 2, 2)
    strip = np.concatenate(list(windows), axis=1)
    assert np.array_equal(halve(strip), naive_halve(strip))


@settings(deadline=None, max_examples=12)
@given(shape=SHAPES, depth=st.none() | st.integers(1, 2), cut=CUTS, ngff=st.sampled_from(["0.4", "0.5"]))
def test_what_is_written_in_any_order_is_read(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], depth: int | None, cut: tuple[int, int], ngff: str
) -> None:
    path = tmp_path_factory.mktemp("masks") / "mask.zarr"
    ids = finished(path, spec_of(shape, cut[0] * cut[1], cut[1], depth=depth), ngff=ngff)
    mask, rng = open_mask(path), random.Random(shape[0])
    for z, plane in enumerate(ids):
        y0, x0 = rng.randrange(shape[0]), rng.randrange(shape[1])
        region = Region(y0, x0, rng.randint(y0 + 1, shape[0]), rng.randint(x0 + 1, shape[1]))
        assert np.array_equal(mask.read(region, z=z), plane[region.slices])
    plain: Any = zarr.open_group(path, mode="r")["0"]
    assert np.array_equal(np.asarray(plain[...]).reshape(ids.shape), ids)


@pytest.mark.parametrize(
    ("shape", "block", "chunk"), [((1100, 1501), 512, 64), ((513, 1), 96, 32), ((2, 1027), 135, 5)]
)
def test_levels_are_halved_until_they_fit_512_pixels(
    tmp_path: Path, shape: tuple[int, int], block: int, chunk: int
) -> None:
    expected = finished(tmp_path / "mask.zarr", spec_of(shape, block, chunk))[0]
    mask = open_mask(tmp_path / "mask.zarr")
    for number, level in enumerate(mask.levels):
        assert np.array_equal(mask.read(Region.of_shape(level.shape), number), expected)
        assert (max(expected.shape) <= 512) == (number == len(mask.levels) - 1)
        expected = halve(expected)


@settings(deadline=None, max_examples=20)
@given(
    shape=SHAPES,
    depth=st.none() | st.integers(1, 2),
    cut=CUTS,
    halvings=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    floor=st.booleans(),
)
def test_each_level_is_the_one_before_it_halved_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    depth: int | None,
    cut: tuple[int, int],
    halvings: list[int],
    floor: bool,
) -> None:
    """Sides are rounded up, or down as those of the image: then a last odd row or column is left out."""
    floor &= min(shape) >> sum(halvings) > 0
    folder = tmp_path_factory.mktemp("levels")
    zarr.create_group(folder)
    grid = Grid(shape, depth, None, cut[0] * cut[1], cut[1], 3, floor=floor)
    counts = [0, *np.cumsum(halvings).tolist()]
    levels = [create_array(folder / str(level), grid.halved(count)) for level, count in enumerate(counts)]
    ids = np.random.default_rng(0).integers(0, 4, (depth or 1, *shape), dtype=np.uint8)
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
    found = open_mask(tmp_path / "mask.zarr").spec
    assert (found.shape, found.classes, found.pixel_size) == ((40, 50), CLASSES, PixelSize(0.5, 0.25))
    assert found.fingerprint == {"model": "a", "tile": [64, 64]}
    assert found.provenance == {"version": "1", "seconds": 2.5}
    assert names(tmp_path) == ["mask.zarr"]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_threads_write_different_blocks_with_a_pickled_writer(tmp_path: Path, ngff: str) -> None:
    spec = spec_of((90, 120))
    ids, writer = ids_of(spec)[0], create_mask(tmp_path / "mask.zarr", spec, ngff=ngff)
    twins = [writer, pickle.loads(pickle.dumps(writer))]
    blocks = list(enumerate(writer.base.blocks()))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: twins[one[0] % 2].write(one[1][0], ids[one[1][0].slices], one[1][1]), blocks))
    writer.finish()
    assert np.array_equal(open_mask(tmp_path / "mask.zarr").read(Region(0, 0, 90, 120)), ids)


@pytest.mark.parametrize("values", ["float32", "uint8"])
@pytest.mark.parametrize("depth", [None, 2])
def test_smaller_levels_of_probabilities_are_means(tmp_path: Path, values: str, depth: int | None) -> None:
    spec = spec_of((1100, 701), 512, 256, depth=depth)
    likely = np.random.default_rng(0).random((4, depth or 1, 1100, 701), np.float32)
    likely = np.rint(likely * 255).astype(np.uint8) if values == "uint8" else likely
    writer = create_probabilities(tmp_path / "p.zarr", spec, values=values)
    fill(writer, likely)
    writer.finish()
    assert is_complete(tmp_path / "p.zarr", spec, probabilities=True, values=values)
    group = zarr.open_group(tmp_path / "p.zarr", mode="r")
    tolerance = 0.51 if values == "uint8" else 1e-6  # whole numbers are rounded once a level
    expected = likely.astype(float)
    for level in range(3):
        array: Any = group[str(level)]
        assert (array.dtype, array.chunks[0], array.shards[0]) == (values, 1, 4)
        found = np.asarray(array[...]).reshape(expected.shape).astype(float)
        assert np.abs(found - expected).max() <= (tolerance if level else 0)
        padded = np.pad(found, [(0, 0), (0, 0), *((0, side % 2) for side in found.shape[2:])], mode="edge")
        expected = padded.reshape(*found.shape[:2], padded.shape[2] // 2, 2, padded.shape[3] // 2, 2).mean((3, 5))


def test_probabilities_are_no_mask(tmp_path: Path) -> None:
    spec, path = spec_of((70, 50)), tmp_path / "p.zarr"
    writer = create_probabilities(path, spec)
    fill(writer, np.zeros((4, 1, 70, 50), np.float32))
    assert not is_complete(path, spec, probabilities=True)
    writer.finish()
    assert is_complete(path, spec, probabilities=True)
    assert not is_complete(path, spec)
    with pytest.raises(MaskError, match="probabilities"):
        open_mask(path)
    next(path.glob("0/c/**/1/0")).write_bytes(b"")
    assert not is_complete(path, spec, probabilities=True)
    assert create_probabilities(path, spec).survey().done.sum() == 5


@settings(max_examples=25)
@given(
    shape=SHAPES,
    depth=st.none() | st.integers(1, 2),
    cut=CUTS,
    form=st.sampled_from(["0.4", "0.5", "probabilities"]),
    seed=st.integers(0, 99),
)
def test_done_are_the_blocks_that_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    depth: int | None,
    cut: tuple[int, int],
    form: str,
    seed: int,
) -> None:
    """Also those of background only."""
    path = tmp_path_factory.mktemp("masks") / "mask.zarr"
    spec = spec_of(shape, cut[0] * cut[1], cut[1], depth=depth)
    likely = form == "probabilities"
    writer = create_probabilities(path, spec) if likely else create_mask(path, spec, ngff=form)
    base, rng = writer.base, np.random.default_rng(seed)
    chosen = [rng.random() < 0.5 for _ in base.blocks()]
    for (region, z), is_chosen in zip(base.blocks(), chosen, strict=True):
        if is_chosen:
            writer.write(region, np.zeros(((4,) if likely else ()) + region.shape, base.grid.dtype), z)
    found = writer.survey()
    files = [all(file.is_file() for file in base.objects(region, z)) for region, z in base.blocks()]
    assert found.done.ravel().tolist() == chosen == files
    assert found.done.shape == (depth or 1, *(-(-size // spec.block) for size in shape))
    assert found.damaged == ()


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_mended_by_writing_again(tmp_path: Path, ngff: str, kind: str) -> None:
    spec, region = spec_of((70, 100)), Region(32, 64, 64, 96)
    ids, writer = ids_of(spec), create_mask(tmp_path / "mask.zarr", spec, ngff=ngff)
    fill(writer, ids)
    file = writer.base.objects(region, 0)[-1]
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    found = writer.survey()
    assert found.damaged == (file,)
    assert np.argwhere(~found.done).tolist() == [[0, 1, 2]]
    with pytest.raises(MaskError, match="1 blocks, the first is 32:64,64:96"):
        writer.finish()
    writer.write(region, ids[0][region.slices])
    writer.finish()
    assert np.array_equal(open_mask(tmp_path / "mask.zarr").read(Region.of_shape(spec.shape)), ids[0])


def test_every_flipped_bit_of_a_block_is_noticed_on_reading(tmp_path: Path) -> None:
    """Blosc alone lets most of these through; those of the index are found by a survey."""
    writer = create_mask(tmp_path / "mask.zarr", spec_of((32, 32)))
    fill(writer, ids_of(writer.spec))
    (file,) = writer.base.objects(FIRST, 0)
    content = file.read_bytes()
    file.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    with pytest.raises(MaskError, match="c/0/0"):  # before the mask has its name
        writer.finish()
    index = len(content) - 4 * 16 - 4
    for bit in range(0, 8 * len(content), 41):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert writer.survey().damaged == ((file,) if bit // 8 >= index else ())
        with pytest.raises(MaskError, match="c/0/0"):
            writer.base.read(FIRST, 0)


def test_flipped_sizes_of_a_chunk_are_found(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((16, 16), 16), ngff="0.4")
    fill(writer, ids_of(writer.spec))
    (file,) = writer.base.objects(Region(0, 0, 16, 16), 0)
    content = file.read_bytes()
    for bit in [*range(8), *range(24, 8 * 8), *range(12 * 8, 16 * 8)]:  # all but flags and blosc's own blocks
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert writer.survey().damaged == (file,)


@pytest.mark.parametrize("kind", ["truncated by half", "empty", "missing"])
def test_damage_to_a_finished_mask_is_named_on_reading(tmp_path: Path, kind: str) -> None:
    finished(tmp_path / "mask.zarr", spec_of((70, 70)))
    mask = open_mask(tmp_path / "mask.zarr")
    file = tmp_path / "mask.zarr/0/c/0/0"
    content = file.read_bytes()
    file.unlink()
    if kind != "missing":
        file.write_bytes(DAMAGE[kind](content))
    with pytest.raises(MaskError, match="c/0/0") as caught:
        mask.read(Region(0, 0, 70, 70))
    assert "\n" not in str(caught.value)
    assert mask.read(Region(32, 32, 70, 70)).shape == (38, 38)


def test_what_is_no_stored_object_is_not_looked_at(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    writer.write(FIRST, ONES)
    folder = writer.base.path / "c/0"
    for name in ("0.1234.partial", "03", "7", "-1", "²", ".DS_Store"):
        (folder / name).write_text("")
    (folder / "1").mkdir()
    found = writer.survey()
    assert found.done.sum() == 1
    assert found.damaged == (folder / "1",)


@pytest.mark.parametrize("place", ["c", "c/0", "c/0/0"])
def test_links_out_of_the_store_are_refused(tmp_path: Path, place: str) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    fill(writer, ids_of(writer.spec))
    linked = writer.base.path / place
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    for use in (writer.survey, writer.finish):
        with pytest.raises(MaskError, match="symbolic link") as caught:
            use()
        assert str(linked) in str(caught.value)


def test_what_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="stored objects"):
        survey(tmp_path, Grid((10**15, 10**15), None, None, 32, 16, 3))
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    (writer.base.path / "c").write_text("in the way")
    with pytest.raises(MaskError, match=r"mask\.zarr\.partial/0"):
        writer.write(FIRST, ONES)
    # nor in a folder that is no array any more
    (writer.base.path / "zarr.json").unlink()
    for use in (writer.survey, lambda: writer.write(FIRST, ONES)):
        with pytest.raises(MaskError, match="is gone"):
            use()


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_a_block_is_what_zarr_itself_would_store(tmp_path: Path, ngff: str) -> None:
    """Every chunk, compressed by zarr, has the bytes that we wrote; where they lie in a shard is free."""
    writer = create_mask(tmp_path / "mask.zarr", spec_of((40, 50)), ngff=ngff)
    ids, base = ids_of(writer.spec), writer.base
    fill(writer, ids)
    twin: Any = zarr.open_array(base.path, mode="r+").with_config({"write_empty_chunks": True})  # type: ignore[arg-type]
    ours = {file: file.read_bytes() for region, z in base.blocks() for file in base.objects(region, z)}
    twin[...] = ids[0]
    for file, content in ours.items():
        assert len(file.read_bytes()) == len(content)
        if ngff == "0.4":
            assert file.read_bytes() == content
    assert np.array_equal(np.asarray(twin[...]), ids[0])


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("layout",), None),
        (("layout", "shape"), [10**15, 10**15]),
        (("layout", "chunk"), 10**9),
        (("layout", "shape"), "xy"),
        (("layout", "depth"), -1),
        (("layout", "classes"), [{}]),
        (("layout", "halvings"), [0, 10**9]),
        (("layout", "halvings"), [1.0]),
        (("layout", "halvings"), [1, 0]),
        (("layout", "kind"), "?"),
        (("layout", "ngff"), []),
        (("layout", "block"), 16),
        (("state",), "partial"),
        (("provenance",), 3),
    ],
)
def test_hostile_records_are_refused(tmp_path: Path, keys: tuple[str, ...], value: Any) -> None:
    finished(tmp_path / "mask.zarr", spec_of((40, 40)))
    rewrite(tmp_path / "mask.zarr/zarr.json", "attributes", "tilesegment", *keys, value=value)
    with pytest.raises(MaskError) as caught:
        open_mask(tmp_path / "mask.zarr")
    assert "\n" not in str(caught.value)
    if keys not in (("state",), ("layout", "block")):  # which leave a mask that is not finished, or damaged
        with pytest.raises(MaskError):
            status(tmp_path / "mask.zarr")


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"attributes": 3}', '{"attributes": {}}'])
def test_what_is_no_mask_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mask.zarr").mkdir()
    (tmp_path / "mask.zarr/zarr.json").write_text(content)
    with pytest.raises(MaskError):
        open_mask(tmp_path / "mask.zarr")
    with pytest.raises(MaskError):
        create_mask(tmp_path / "mask.zarr", spec_of((40, 40)), overwrite=True)
    with pytest.raises(MaskError, match=r"nothing\.zarr"):
        open_mask(tmp_path / "nothing.zarr")


def test_hostile_arrays_are_refused(tmp_path: Path) -> None:
    finished(tmp_path / "mask.zarr", spec_of((40, 40)))
    rewrite(tmp_path / "mask.zarr/0/zarr.json", "shape", value=[10**15, 10**15])
    with pytest.raises(MaskError, match="not the one that its group describes"):
        open_mask(tmp_path / "mask.zarr")
    (tmp_path / "mask.zarr/0/zarr.json").write_text("{}")
    with pytest.raises(MaskError, match="cannot open the array"):
        open_mask(tmp_path / "mask.zarr")


def write_for_ever(path: Path, ngff: str) -> None:
    writer = create_mask(path, spec_of((200, 200), 64, 32), ngff=ngff)
    while True:
        fill(writer, ids_of(writer.spec))


@pytest.mark.slow
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_killed_writers_leave_nothing_damaged(tmp_path: Path, ngff: str) -> None:
    path, spec = tmp_path / "mask.zarr", spec_of((200, 200), 64, 32)
    for delay in (0.02, 0.05, 0.11):
        process = PROCESSES.Process(target=write_for_ever, args=(path, ngff))
        process.start()
        while not list(tmp_path.glob("mask.zarr.partial/0/**/0")):
            time.sleep(0.005)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -9
        writer = create_mask(path, spec, ngff=ngff)
        assert writer.survey().damaged == ()
    (writer.base.path / "0.stray.partial").write_text("left by a killed process")
    ids = ids_of(spec)
    fill(writer, ids)
    writer.finish()
    assert names(tmp_path) == ["mask.zarr"]
    assert not list(path.rglob("*.partial"))
    assert np.array_equal(open_mask(path).read(Region.of_shape(spec.shape)), ids[0])


def test_the_package_is_imported_without_zarr() -> None:
    code = "import sys, tilesegment.masks; print([name for name in ('zarr', 'tifffile', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
