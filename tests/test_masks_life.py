"""The life of a mask: begun, gone on with, finished, replaced, damaged, mended."""

import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_files import (
    FILES,
    FIRST,
    HIDDEN,
    ONES,
    OTHER,
    PROCESSES,
    SPEC,
    contents,
    fill,
    finished,
    ids_of,
    make,
    names,
    prepare,
    remove,
    spec_of,
    try_finish,
)
from PIL import Image

from tilesegment.errors import FinishedError, MaskError
from tilesegment.geometry import Region
from tilesegment.masks import (
    MaskSpec,
    create_mask,
    create_probabilities,
    is_complete,
    open_mask,
    open_partial,
    status,
)


class TestGoingOn:
    @pytest.mark.parametrize("ngff", ["0.4", "0.5"])
    @pytest.mark.parametrize("name", [*FILES, HIDDEN])
    def test_a_mask_is_gone_on_with_by_its_settings_or_its_name(self, tmp_path: Path, name: str, ngff: str) -> None:
        path, ids = prepare(tmp_path, name), ids_of(SPEC)
        writer = create_mask(path, replace(SPEC, provenance={"started": 1}), ngff=ngff)
        blocks = list(writer.base.blocks())
        for region, z in blocks[:15]:
            writer.write(region, ids[z][region.slices], z)
        writer.base.objects(*blocks[0])[0].write_bytes(b"damaged")
        with pytest.raises(MaskError, match="6 blocks"):
            writer.finish()
        with pytest.raises(MaskError, match="not finished"):
            open_mask(path)
        found = status(str(path))
        assert (found.path, found.state, found.blocks, found.done, found.damaged) == (path, "partial", 20, 14, 1)
        assert (found.spec.shape, dict(found.spec.fingerprint)) == (SPEC.shape, {"model": "a", "tile": [64, 64]})
        again = create_mask(path, replace(SPEC, provenance={"started": 2}), ngff=ngff)
        assert again.survey().done.sum() == 14
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
        assert np.array_equal(open_mask(path).read(Region.of_shape(SPEC.shape)), ids[0])

    def test_other_settings_are_refused_by_name(self, tmp_path: Path) -> None:
        create_mask(tmp_path / "mask.zarr", SPEC).write(FIRST, ONES)
        other = replace(SPEC, shape=(100, 601), fingerprint={"model": "b", "tile": (64, 64), "overlap": True})
        with pytest.raises(MaskError) as caught:
            create_mask(tmp_path / "mask.zarr", other)
        message = str(caught.value)
        for part in ("model: 'a' there, 'b' now", "[100, 600] there, [100, 601] now", "overlap: none there, True now"):
            assert part in message
        assert "tile:" not in message and "\n" not in message
        assert not create_mask(tmp_path / "mask.zarr", other, overwrite=True).survey().done.any()

    def test_a_mask_in_which_nothing_is_stored_is_begun_anew(self, tmp_path: Path) -> None:
        create_mask(tmp_path / "mask.zarr", SPEC, ngff="0.4")
        assert make(tmp_path, "mask.zarr", OTHER).exists()
        assert names(tmp_path) == ["mask.zarr"]

    def test_an_interrupted_beginning_or_deletion_is_no_obstacle(self, tmp_path: Path) -> None:
        (tmp_path / "empty.zarr.partial").mkdir()
        create_mask(tmp_path / "empty.zarr", SPEC)
        create_mask(tmp_path / "mask.zarr", SPEC)
        remove(tmp_path / "mask.zarr.partial/0")
        assert not create_mask(tmp_path / "mask.zarr", SPEC).survey().done.any()

    def test_a_late_block_gets_into_no_other_mask(self, tmp_path: Path) -> None:
        """A worker may still be at it when its run was killed and another one begun."""
        path = tmp_path / "mask.zarr"
        late = create_mask(path, SPEC)
        late.write(FIRST, ONES)
        create_mask(path, SPEC)
        late.write(FIRST, ONES)
        anew = create_mask(path, OTHER, overwrite=True)
        with pytest.raises(MaskError, match="is gone"):
            late.write(FIRST, ONES)
        assert not anew.survey().done.any()
        fill(anew, ids_of(SPEC))
        anew.finish()
        with pytest.raises(MaskError, match="is gone"):
            anew.write(FIRST, ONES)
        assert names(tmp_path) == ["mask.zarr"]


class TestOutputs:
    @pytest.mark.parametrize("name", [*FILES, HIDDEN])
    def test_an_output_is_replaced_only_when_asked_and_complete(self, tmp_path: Path, name: str) -> None:
        path = make(tmp_path, name)
        before = contents(path)
        for spec, named in ((SPEC, "--overwrite"), (OTHER, "model: 'a' there, 'b' now")):
            with pytest.raises(MaskError) as caught:
                create_mask(path, spec)
            assert named in str(caught.value)
        writer = create_mask(path, SPEC, overwrite=True)
        writer.write(FIRST, ONES)
        with pytest.raises(MaskError, match="19 blocks"):
            writer.finish()
        assert contents(path) == before
        fill(writer, ids_of(SPEC, seed=2))
        writer.finish()
        assert contents(path) != before
        assert [one for one in names(path.parent) if "zarr.json" not in one] == [path.name]

    def test_a_mask_that_appeared_meanwhile_is_kept(self, tmp_path: Path) -> None:
        writer = create_mask(tmp_path / "mask.tif", SPEC)
        fill(writer, ids_of(SPEC))
        (tmp_path / "mask.tif").write_bytes(b"another run's")
        with pytest.raises(MaskError, match="exists"):
            writer.finish()
        assert (tmp_path / "mask.tif").read_bytes() == b"another run's"

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("place", ["{}", "{}.partial"])
    def test_foreign_folders_are_never_deleted(self, tmp_path: Path, name: str, place: str) -> None:
        foreign = tmp_path / place.format(name)
        foreign.mkdir()
        (foreign / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}')
        (foreign / "thesis.txt").write_text("years of work")
        with pytest.raises(MaskError, match=foreign.name):
            create_mask(tmp_path / name, SPEC, overwrite=True)
        assert names(foreign) == ["thesis.txt", "zarr.json"]

    @pytest.mark.parametrize(
        ("name", "changes", "options", "message"),
        [
            ("mask.bmp", {}, {}, r"NAME\.zarr.*NAME\.tif.*NAME\.png"),
            ("mask.jpg", {}, {}, r"NAME\.zarr.*NAME\.tif.*NAME\.png"),
            ("labels/cells", {}, {}, r"IMAGE\.zarr/labels/NAME"),
            ("nowhere/mask.zarr", {}, {}, "nowhere; create it"),
            ("file/mask.zarr", {}, {}, "no folder"),
            ("link.tif", {}, {}, "symbolic link"),
            ("held.zarr", {}, {}, "not made by tilesegment"),
            (f"{'n' * 250}.zarr", {}, {}, "File name too long"),
            ("mask.zarr", {}, {"ngff": "0.6"}, r"'0\.6'.*0\.4 and 0\.5"),
            ("mask.png", {"shape": (8001, 8000)}, {}, "64 megapixels"),
            ("mask.png", {"depth": 3}, {}, "one plane"),
        ],
    )
    def test_what_cannot_be_an_output_is_refused_at_once(
        self, tmp_path: Path, name: str, changes: dict[str, Any], options: dict[str, Any], message: str
    ) -> None:
        for there in ("file", "real.tif", "held.zarr"):
            (tmp_path / there).write_text("")
        (tmp_path / "link.tif").symlink_to(tmp_path / "real.tif")
        with pytest.raises(MaskError, match=message) as caught:
            create_mask(tmp_path / name, replace(SPEC, **changes), overwrite=True, **options)
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == ["file", "held.zarr", "link.tif", "real.tif"]

    def test_probabilities_go_only_to_a_zarr(self, tmp_path: Path) -> None:
        for name, values, message in (("p.tif", "float32", r"NAME\.zarr"), ("p.zarr", "int8", "float32 or uint8")):
            with pytest.raises(MaskError, match=message):
                create_probabilities(tmp_path / name, SPEC, values=values)

    @pytest.mark.parametrize(("name", "limit"), [("mask.zarr", 1000), ("mask.tif", 30_000), ("mask.png", 30_000)])
    def test_a_full_disk_is_named_and_damages_nothing(self, tmp_path: Path, name: str, limit: int) -> None:
        spec = spec_of((600, 600), 256, 64)
        path = make(tmp_path, name, spec, seed=1)
        before = contents(path)
        process = PROCESSES.Process(target=write_on_a_full_disk, args=(path, spec, limit))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert contents(path) == before
        ids = finished(path, spec, seed=2, overwrite=True)
        assert np.array_equal(open_mask(path).read(Region.of_shape(spec.shape)), ids[0])
        assert names(tmp_path) == [name]


def write_on_a_full_disk(path: Path, spec: MaskSpec, limit: int) -> None:
    """Of a Zarr no block fits; of the others the exported file does not."""
    writer, ids = create_mask(path, spec, overwrite=True), ids_of(spec, seed=2)
    if limit == 30_000:
        fill(writer, ids)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def write() -> None:
        fill(writer, ids)
        writer.finish()

    with pytest.raises(MaskError) as caught:
        write()
    assert "File too large" in str(caught.value) and str(path.parent) in str(caught.value)


class TestComplete:
    @pytest.mark.parametrize("ngff", ["0.4", "0.5"])
    @pytest.mark.parametrize("name", [*FILES, HIDDEN])
    def test_what_is_finished_with_the_same_settings_is_complete(self, tmp_path: Path, name: str, ngff: str) -> None:
        assert not is_complete(prepare(tmp_path, name), SPEC, ngff=ngff)
        finished(path := tmp_path / name, SPEC, ngff=ngff)
        before = contents(tmp_path)
        assert is_complete(path, replace(SPEC, provenance={"started": "another day"}), ngff=ngff)
        for other in (OTHER, replace(SPEC, classes=SPEC.classes[:3]), replace(SPEC, shape=(101, 600))):
            assert not is_complete(path, other, ngff=ngff)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("name", ["mask.tif", "mask.png"])
    def test_what_is_no_file_of_ours_is_not_complete(self, tmp_path: Path, name: str) -> None:
        path = make(tmp_path, name)
        content = path.read_bytes()
        for damaged in (b"", content[:10], content[: len(content) // 2], content[:-1], bytes(len(content))):
            path.write_bytes(damaged)
            assert not is_complete(path, SPEC)
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
        assert not is_complete(path, SPEC)
        path.unlink()
        Image.fromarray(np.zeros((100, 600), np.uint8)).save(path)
        assert not is_complete(path, SPEC)
        with pytest.raises(MaskError, match="exists"):
            create_mask(path, SPEC)

    def test_a_record_with_entities_is_not_read(self, tmp_path: Path) -> None:
        path = make(tmp_path, "mask.tif")
        content, declared = path.read_bytes(), b'<?xml version="1.0" encoding="UTF-8"?>'
        assert declared in content
        path.write_bytes(content.replace(declared, b'<!DOCTYPE a [<!ENTITY b "c">]>'.ljust(len(declared))))
        assert not is_complete(path, SPEC)

    @pytest.mark.parametrize(
        ("pattern", "lacking"),
        [("0/**/1/2", 1), ("1/**/0/1", 0), ("1", 0), ("1/*zarr*", 0), ("0/*zarr*", 0)],
    )
    @pytest.mark.parametrize(("name", "ngff"), [("mask.zarr", "0.4"), ("mask.zarr", "0.5"), (HIDDEN, "0.5")])
    def test_a_damaged_mask_is_gone_on_with(
        self, tmp_path: Path, name: str, ngff: str, pattern: str, lacking: int
    ) -> None:
        path = make(tmp_path, name, ngff=ngff)
        before, ids = contents(path), ids_of(SPEC)
        remove(next(path.glob(pattern)))
        assert not is_complete(path, SPEC, ngff=ngff)
        assert not path.exists()
        writer = create_mask(path, SPEC, ngff=ngff)
        done = writer.survey().done
        assert (~done).sum() == lacking
        for (region, z), is_done in zip(writer.base.blocks(), done.flat, strict=True):
            if not is_done:
                writer.write(region, ids[z][region.slices], z)
        writer.finish()
        assert is_complete(path, SPEC, ngff=ngff)
        assert contents(path) == before

    def test_status_tells_the_damage_of_a_complete_mask(self, tmp_path: Path) -> None:
        path = make(tmp_path, "mask.zarr")
        remove(path / "1/c/0/3")
        (path / "0/c/1/2").write_bytes(b"damaged")
        found = status(path)
        assert (found.state, found.blocks, found.done, found.damaged) == ("complete", 20, 19, 2)

    def test_what_is_no_mask_has_no_status(self, tmp_path: Path) -> None:
        (tmp_path / "image.tif").write_bytes(b"II*\0")
        (tmp_path / "folder.zarr").mkdir()
        for name in ("nothing.zarr", "image.tif", "folder.zarr"):
            for ask in (status, open_partial):
                with pytest.raises(MaskError, match=name):
                    ask(tmp_path / name)
