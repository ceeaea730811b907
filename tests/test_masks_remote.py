"""Masks in an object store: the life of a mask on a real S3 server, and what is like it in memory."""

import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from mask_files import FIRST, ONES, OTHER, SPEC, Killed, dying, fill, finished, ids_of, spec_of, try_finish
from mask_files import contents as on_disk
from ome_zarr_models import open_ome_zarr
from remote_masks import contents, in_memory, keys, level_0, open_foreign, read, write_some
from s3_server import CREDENTIALS, S3Server

from tilesegment.errors import FinishedError, MaskError
from tilesegment.masks import (
    bucket,
    create_mask,
    create_probabilities,
    is_complete,
    open_mask,
    open_partial,
    status,
)
from tilesegment.stores import Location, store_at
from tilesegment.stores.memory import MemoryStore


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Location:
    """An empty place of each kind."""
    if request.param == "memory":
        return in_memory()
    bucket: Location = request.getfixturevalue("s3")
    return bucket / "some"


@pytest.fixture
def memory() -> Location:
    return in_memory()


def kill_store_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the `step`-th change from now on be the end of the process."""
    made: list[None] = []
    for name in ("put", "put_if_absent", "delete"):
        patch.setattr(MemoryStore, name, dying(getattr(MemoryStore, name), made, step))


class TestLife:
    @pytest.mark.parametrize("ngff", ["0.4", "0.5"])
    def test_a_mask_is_gone_on_with_by_its_settings_or_its_name(self, place: Location, ngff: str) -> None:
        path, ids = place / "mask.zarr", ids_of(SPEC)
        writer = create_mask(path, replace(SPEC, provenance={"started": 1}), ngff=ngff)
        blocks = list(writer.base.blocks())
        write_some(writer, 15)
        store_at(path / "0").put(writer.base.grid.keys(*blocks[0])[0], b"damaged")
        with pytest.raises(MaskError, match="6 blocks"):
            writer.finish()
        with pytest.raises(MaskError, match="not finished"):
            open_mask(path)
        found = status(path)
        assert (found.path, found.state, found.blocks, found.done, found.damaged) == (path, "partial", 20, 14, 1)
        assert create_mask(path, SPEC, ngff=ngff).survey().done.sum() == 14
        again = open_partial(path)
        assert not try_finish(again)
        for region, z in blocks[15:] + blocks[:1]:
            again.write(region, ids[z][region.slices], z)
        assert try_finish(again, {"finished": "by hand"})
        assert is_complete(path, SPEC, ngff=ngff)
        found = status(path)
        assert (found.state, found.blocks, found.done, found.damaged) == ("complete", 20, 20, 0)
        assert found.spec.provenance["finished"] == "by hand"
        with pytest.raises(FinishedError):
            open_partial(path)
        assert np.array_equal(read(path), ids[0])
        assert not [key for key in keys(place) if ".partial" in key]

    def test_an_unfinished_mask_is_nothing_to_a_reader(self, place: Location) -> None:
        writer = create_mask(place / "mask.zarr", SPEC)
        write_some(writer, 19)
        for level in ("", "0"):
            with pytest.raises(FileNotFoundError):
                open_foreign(place / "mask.zarr" / level)
        write_some(writer, 20)
        writer.finish()
        assert np.array_equal(open_foreign(place / "mask.zarr")["0"][:], ids_of(SPEC)[0])

    def test_it_is_the_mask_of_a_disk_object_by_object(self, memory: Location, tmp_path: Path) -> None:
        for ngff in ("0.4", "0.5"):
            finished(tmp_path / f"{ngff}.zarr", SPEC, ngff=ngff)
            finished(memory / f"{ngff}.zarr", SPEC, ngff=ngff)
            files = on_disk(tmp_path / f"{ngff}.zarr").items()
            assert contents(memory / f"{ngff}.zarr") == {
                str(key.relative_to(tmp_path / f"{ngff}.zarr")): data for key, data in files
            }
        assert all(key.startswith(("0.4.zarr/", "0.5.zarr/")) for key in keys(memory))

    def test_probabilities_are_written_too(self, memory: Location) -> None:
        writer = create_probabilities(memory / "p.zarr", SPEC)
        for region, z in writer.base.blocks():
            writer.write(region, np.full((4, *region.shape), 0.25, np.float32), z)
        writer.finish()
        assert is_complete(memory / "p.zarr", SPEC, probabilities=True)
        assert open_foreign(memory / "p.zarr")["1"][:, 7, 9].tolist() == [0.25] * 4

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mask.tif", r"only NAME\.zarr"),
            ("mask.png", r"only NAME\.zarr"),
            ("mask.jpg", r"NAME\.zarr"),
            ("image.zarr/labels/cells", "not added to images in a store"),
            ("image.zarr", "not made by tilesegment"),
            ("array.zarr", "not made by tilesegment"),
            ("foreign.zarr", r"did not make, such as thesis\.txt"),
            ("free.zarr", r"free\.zarr\.partial is in the way"),
        ],
    )
    def test_what_cannot_be_an_output_is_refused_at_once(self, memory: Location, name: str, message: str) -> None:
        group = b'{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}'
        store_at(memory).put("image.zarr/zarr.json", group)
        store_at(memory).put("free.zarr.partial/zarr.json", group)
        store_at(memory).put("array.zarr/.zarray", b'{"zarr_format": 2}')
        store_at(memory).put("foreign.zarr/thesis.txt", b"years of work")
        before = contents(memory)
        with pytest.raises(MaskError, match=message) as caught:
            create_mask(memory / name, SPEC, overwrite=True)
        assert "\n" not in str(caught.value)
        assert contents(memory) == before

    def test_other_settings_are_refused_by_name(self, memory: Location) -> None:
        create_mask(memory / "mask.zarr", SPEC).write(FIRST, ONES)
        with pytest.raises(MaskError, match="model: 'a' there, 'b' now"):
            create_mask(memory / "mask.zarr", OTHER)
        anew = create_mask(memory / "mask.zarr", OTHER, overwrite=True)
        assert not anew.survey().done.any()

    def test_a_mask_in_which_nothing_is_stored_is_begun_anew(self, memory: Location) -> None:
        create_mask(memory / "mask.zarr", SPEC, ngff="0.4")
        finished(memory / "mask.zarr", OTHER)
        assert is_complete(memory / "mask.zarr", OTHER)
        assert {key.partition("/")[0] for key in keys(memory)} == {"mask.zarr"}

    def test_a_late_block_gets_into_no_other_mask(self, memory: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker may still be at it when its run was killed and another one begun."""
        path = memory / "mask.zarr"
        late = create_mask(path, SPEC)
        late.write(FIRST, ONES)
        create_mask(path, SPEC)
        late.write(FIRST, ONES)
        anew = create_mask(path, OTHER, overwrite=True)
        late.write(FIRST, ONES)  # it was looked up a moment ago that the mask is in progress
        assert not anew.survey().done.any()
        monkeypatch.setattr(bucket, "_LOOKED", 0.0)
        with pytest.raises(MaskError, match="is gone"):
            late.write(FIRST, ONES)
        fill(anew, ids_of(SPEC))
        anew.finish()
        with pytest.raises(MaskError, match="is gone"):
            anew.write(FIRST, ONES)
        assert np.array_equal(read(path), ids_of(SPEC)[0])
        assert {key.split("/")[1] for key in keys(memory)} == {"zarr.json", anew.target.prefix.rstrip("/")}


class TestReplacing:
    @pytest.mark.parametrize("ngff", [("0.5", "0.5"), ("0.4", "0.5"), ("0.5", "0.4")])
    def test_an_output_is_replaced_only_when_asked_and_complete(self, memory: Location, ngff: tuple[str, str]) -> None:
        path = memory / "mask.zarr"
        before = finished(path, SPEC, ngff=ngff[0])
        for spec, named in ((SPEC, "--overwrite"), (OTHER, "model: 'a' there, 'b' now")):
            with pytest.raises(MaskError, match=named):
                create_mask(path, spec, ngff=ngff[0])
        for spec, seed in ((SPEC, 2), (OTHER, 3), (OTHER, 4)):
            writer = create_mask(path, spec, ngff=ngff[1], overwrite=True)
            write_some(writer, 19, seed)
            with pytest.raises(MaskError, match="1 blocks"):
                writer.finish()
            assert np.array_equal(read(path), before[0])
            assert np.array_equal(level_0(path), before[0])
            write_some(writer, 20, seed)
            writer.finish()
            before = ids_of(spec, seed)
            assert np.array_equal(read(path), before[0])
            prefix = writer.target.prefix
            assert all(key in ("zarr.json", ".zattrs", ".zgroup") or key.startswith(prefix) for key in keys(path))
            assert is_complete(path, spec, ngff=ngff[1]) and status(path).done == 20
        assert keys(memory / "mask.zarr.partial") == []

    @pytest.mark.filterwarnings("ignore:Both zarr.json")
    @pytest.mark.parametrize("ngff", [pytest.param("0.4", marks=pytest.mark.slow), "0.5"])
    @pytest.mark.parametrize("old", [None, pytest.param("0.4", marks=pytest.mark.slow), "0.5"])
    def test_finishing_can_be_killed_at_any_step(
        self, memory: Location, monkeypatch: pytest.MonkeyPatch, old: str | None, ngff: str
    ) -> None:
        spec = spec_of((600, 40), 600, 200)
        other = replace(spec, fingerprint={})
        for step in itertools.count(1):
            path = memory / f"{step}.zarr"
            if old is not None:
                finished(path, other, seed=1, ngff=old)
            writer = create_mask(path, spec, ngff=ngff, overwrite=old is not None)
            fill(writer, ids_of(spec))
            with monkeypatch.context() as patch:
                kill_store_at(patch, step)
                try:
                    writer.finish()
                except Killed:
                    pass
                else:
                    break
            if not is_complete(path, spec, ngff=ngff):
                assert old is None or np.array_equal(level_0(path), ids_of(spec, 1)[0])
                assert status(path).state == ("partial" if old is None else "complete")
                assert try_finish(create_mask(path, spec, ngff=ngff, overwrite=old is not None))
            assert np.array_equal(level_0(path), ids_of(spec)[0])
            assert is_complete(path, spec, ngff=ngff)
            assert keys(memory / f"{step}.zarr.partial") == []
            assert len(keys(path)) == (5 if ngff == "0.5" else 11), keys(path)
        assert step > 5

    @pytest.mark.parametrize("lost", ["0/c/1/2", "1/c/0/1", "1/zarr.json", "0/zarr.json"])
    def test_a_damaged_mask_is_gone_on_with(self, memory: Location, lost: str) -> None:
        path, ids = memory / "mask.zarr", ids_of(SPEC)
        finished(path, SPEC)
        before = contents(path)
        store_at(path).delete([lost])
        assert status(path).damaged == ("json" not in lost)
        assert not is_complete(path, SPEC)
        with pytest.raises(FileNotFoundError):
            open_foreign(path)
        writer = create_mask(path, SPEC)
        assert (~writer.survey().done).sum() == (lost == "0/c/1/2")
        for region, z in writer.base.blocks():
            writer.write(region, ids[z][region.slices], z)
        writer.finish()
        assert contents(path) == before
        assert is_complete(path, SPEC)

    def test_reopening_can_be_killed_at_any_step(self, memory: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        for step in range(1, 5):
            path = memory / f"{step}.zarr"
            finished(path, SPEC)
            store_at(path).delete(["0/c/1/2"])
            with monkeypatch.context() as patch:
                kill_store_at(patch, step)
                with suppress(Killed):
                    is_complete(path, SPEC)
            assert status(path).done == 19
            assert not is_complete(path, SPEC)
            writer = create_mask(path, SPEC)
            fill(writer, ids_of(SPEC))
            writer.finish()
            assert is_complete(path, SPEC)
            assert keys(memory / f"{step}.zarr.partial") == []


def test_a_denied_write_is_one_line_and_the_mask_goes_on(s3_server: S3Server, s3: Location) -> None:
    path = s3 / "mask.zarr"
    writer = create_mask(path, SPEC)
    write_some(writer, 10)
    s3_server.set_policy(s3, "Deny", "s3:PutObject")
    with pytest.raises(MaskError, match=r"access to .*mask\.zarr/0/c/.* is denied") as caught:
        write_some(writer, 12)
    assert "\n" not in str(caught.value)
    s3_server.set_policy(s3, "Allow")
    again = create_mask(path, SPEC)
    assert again.survey().done.sum() == 10
    fill(again, ids_of(SPEC))
    again.finish()
    assert np.array_equal(read(path), ids_of(SPEC)[0])


def test_a_finished_mask_is_valid_and_holds_no_secret(s3: Location, tmp_path: Path) -> None:
    path = s3 / "mask.zarr"
    finished(path, SPEC)
    finished(path, OTHER, overwrite=True)
    assert not any(secret.encode() in content for content in contents(s3).values() for secret in CREDENTIALS.values())
    for key, content in contents(path).items():
        (tmp_path / "mask.zarr" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mask.zarr" / key).write_bytes(content)
    yaozarrs.validate_zarr_store(str(tmp_path / "mask.zarr"))
    assert open_ome_zarr(zarr.open_group(tmp_path / "mask.zarr", mode="r")).attributes.ome.version == "0.5"
