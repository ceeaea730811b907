"""What a survey of the stored objects finds, and that killed writers leave nothing damaged."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_masks import fill, ids_of, names, spec_of

from tilesegment.errors import MaskError
from tilesegment.files import write_files
from tilesegment.geometry import Region
from tilesegment.masks import create_mask, create_probabilities, open_mask
from tilesegment.masks.spec import Grid
from tilesegment.masks.store import survey

# a server that has imported everything forks a process in milliseconds
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["test_masks", "tilesegment.masks.completion", "tilesegment.masks.writer"])

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated by a byte": lambda content: content[:-1],
    "truncated by half": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "followed by garbage": lambda content: content + b"\0" * 7,
    "twice": lambda content: content + content,
    "empty": lambda content: b"",
    "too short for anything": lambda content: content[:3],
}


def naive_survey(path: Path, grid: Grid) -> list[bool]:
    """Whether all objects of each block are files."""
    return [all(file.is_file() for file in grid.objects(path, region, z)) for region, z in grid.blocks()]


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    depth=st.none() | st.integers(1, 2),
    cut=st.sampled_from([(1, 32), (2, 16), (3, 7)]),
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
    path = tmp_path_factory.mktemp("masks") / "mask.zarr"
    spec = spec_of(shape, cut[0] * cut[1], cut[1], depth=depth)
    likely = form == "probabilities"
    writer = create_probabilities(path, spec) if likely else create_mask(path, spec, ngff=form)
    rng = np.random.default_rng(seed)
    chosen = [rng.random() < 0.5 for _ in writer.base.blocks()]
    lead = (4,) if likely else ()
    for (region, z), is_chosen in zip(writer.base.blocks(), chosen, strict=True):
        if is_chosen:
            writer.write(region, np.ones((*lead, *region.shape), writer.base.grid.dtype), z)
    found = writer.survey()
    assert found.done.ravel().tolist() == chosen == naive_survey(writer.base.path, writer.base.grid)
    assert found.done.shape == (depth or 1, *(-(-size // spec.block) for size in shape))
    assert found.damaged == ()


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_mended_by_writing_again(tmp_path: Path, ngff: str, kind: str) -> None:
    spec = spec_of((70, 100))
    ids = ids_of(spec)
    writer = create_mask(tmp_path / "mask.zarr", spec, ngff=ngff)
    fill(writer, ids)
    region = Region(32, 64, 64, 96)
    stored = writer.base.objects(region, 0)[-1]
    stored.write_bytes(DAMAGE[kind](stored.read_bytes()))
    found = writer.survey()
    assert found.damaged == (stored,)
    assert np.argwhere(~found.done).tolist() == [[0, 1, 2]]
    with pytest.raises(MaskError, match="lacks 1 blocks, the first is 32:64,64:96"):
        writer.finish()
    writer.write(region, ids[0][region.slices])
    writer.finish()
    assert np.array_equal(open_mask(tmp_path / "mask.zarr").read(Region.of_shape(spec.shape)), ids[0])


def test_every_flipped_bit_of_an_index_is_found(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((32, 32)))
    fill(writer, ids_of(writer.spec))
    (stored,) = writer.base.objects(Region(0, 0, 32, 32), 0)
    content = stored.read_bytes()
    for bit in range(8 * (len(content) - 4 * 16 - 4), 8 * len(content), 5):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        stored.write_bytes(damaged)
        assert writer.survey().damaged == (stored,)


def test_flipped_sizes_of_a_chunk_are_found(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((16, 16), 16), ngff="0.4")
    fill(writer, ids_of(writer.spec))
    (stored,) = writer.base.objects(Region(0, 0, 16, 16), 0)
    content = stored.read_bytes()
    for bit in [*range(8), *range(24, 8 * 8), *range(12 * 8, 16 * 8)]:  # all but flags and blosc's own blocks
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        stored.write_bytes(damaged)
        assert writer.survey().damaged == (stored,)


def test_what_is_no_stored_object_is_not_looked_at(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    writer.write(Region(0, 0, 32, 32), np.ones((32, 32), np.uint8))
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
    with pytest.raises(MaskError, match="is a symbolic link, which is not followed") as caught:
        writer.survey()
    assert str(linked) in str(caught.value)
    with pytest.raises(MaskError, match="is a symbolic link"):
        writer.finish()


def test_absurd_numbers_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="more than"):
        survey(tmp_path, Grid((10**15, 10**15), None, None, 32, 16, 3))


def test_a_lost_page_of_the_metadata_is_named(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    (writer.base.path / "zarr.json").unlink()
    with pytest.raises(MaskError, match="is gone: the mask was finished or removed"):
        writer.survey()
    # and a block is not written into a folder that is no array
    with pytest.raises(MaskError, match="is gone"):
        writer.write(Region(0, 0, 32, 32), np.ones((32, 32), np.uint8))


def test_files_are_stored_all_or_none_of_them_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {tmp_path / name: name.encode() for name in "abc"}
    for path in files:
        path.write_text("old")
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        write_files(files)
    assert [path.read_text() for path in files] == ["a", "old", "old"]
    assert names(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_a_block_is_what_zarr_itself_would_store(tmp_path: Path, ngff: str) -> None:
    """Every chunk, compressed by zarr, has the bytes that we wrote; where they lie in a shard is free."""
    writer = create_mask(tmp_path / "mask.zarr", spec_of((40, 50)), ngff=ngff)
    ids = ids_of(writer.spec)
    fill(writer, ids)
    base = writer.base
    twin = zarr.open_array(base.path, mode="r+").with_config({"write_empty_chunks": True})  # type: ignore[arg-type]
    ours = {file: sorted(file.read_bytes()) for region, z in base.blocks() for file in base.objects(region, z)}
    twin[...] = ids[0]
    for file, content in ours.items():
        assert len(file.read_bytes()) == len(content)
        if ngff == "0.4":
            assert sorted(file.read_bytes()) == content
    assert np.array_equal(np.asarray(twin[...]), ids[0])


def write_for_ever(path: Path, ngff: str) -> None:
    """Writes the blocks of a mask again and again."""
    writer = create_mask(path, spec_of((200, 200), 64, 32), ngff=ngff)
    ids = ids_of(writer.spec)
    while True:
        fill(writer, ids)


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
