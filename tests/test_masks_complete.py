"""Whether nothing is left to do, how far a mask is, and complete masks that were damaged since."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_files import try_finish
from PIL import Image
from test_masks import fill, finished, ids_of, names, spec_of
from test_masks_formats import make_image

from tilesegment.errors import FinishedError, MaskError
from tilesegment.files import temporary_name
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

SPEC = spec_of((100, 600), 64, 32)  # two levels, 2 x 10 and 1 x 5 blocks
FILES = ["mask.zarr", "mask.tif", "mask.png"]
HIDDEN = "image.zarr/labels/nuclei"


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(real: Callable[..., Any], calls: list[None], last: int) -> Callable[..., Any]:
    """`real`, whose `last` call, counted in `calls`, is the process's end."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) >= last:
            raise Killed
        return real(*arguments, **options)

    return call


def make(folder: Path, name: str, spec: MaskSpec = SPEC, **options: Any) -> Path:
    """A complete mask, in an image if its name says so."""
    if name == HIDDEN and not (folder / "image.zarr").exists():
        make_image(folder / "image.zarr", "0.5", (1, 2))
    finished(folder / name, spec, **options)
    return folder / name


def content_of(path: Path) -> dict[Path, bytes]:
    """Every file of an output."""
    return {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("name", [*FILES, HIDDEN])
def test_what_is_finished_with_the_same_settings_is_complete(tmp_path: Path, name: str, ngff: str) -> None:
    assert not is_complete(tmp_path / name.split("/")[-1].replace("nuclei", "n.zarr"), SPEC, ngff=ngff)
    path = make(tmp_path, name, ngff=ngff)
    before = content_of(tmp_path)
    assert is_complete(path, replace(SPEC, provenance={"started": "another day"}), ngff=ngff)
    assert content_of(tmp_path) == before
    for other in (
        replace(SPEC, fingerprint={"model": "b", "tile": (64, 64)}),
        replace(SPEC, classes=SPEC.classes[:3]),
        replace(SPEC, shape=(101, 600)),
    ):
        assert not is_complete(path, other, ngff=ngff)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name", [*FILES, HIDDEN])
def test_an_output_of_other_settings_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, name)
    with pytest.raises(MaskError) as caught:
        create_mask(path, spec_of((100, 600), 64, 32, fingerprint={"model": "b", "tile": (64, 64)}))
    wanted = "model: 'a' there, 'b' now"
    assert f"exists and was made with other settings ({wanted}); name another output" in str(caught.value)


def test_probabilities_are_no_mask_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    writer = create_probabilities(path, SPEC)
    for region, z in writer.base.blocks():
        writer.write(region, np.zeros((4, *region.shape), np.float32), z)
    assert not is_complete(path, SPEC, probabilities=True)
    writer.finish()
    assert is_complete(path, SPEC, probabilities=True)
    assert not is_complete(path, SPEC)
    writer.base.objects(Region(0, 0, 64, 64), 0)
    next(path.glob("0/c/**/1/0")).write_bytes(b"")
    assert not is_complete(path, SPEC, probabilities=True)
    assert create_probabilities(path, SPEC).survey().done.sum() == 19


@pytest.mark.parametrize("name", ["mask.tif", "mask.png"])
def test_what_is_no_file_of_ours_is_not_complete(tmp_path: Path, name: str) -> None:
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
    with pytest.raises(MaskError, match="exists; name another"):
        create_mask(path, SPEC)


def test_a_record_with_entities_is_not_read(tmp_path: Path) -> None:
    path = make(tmp_path, "mask.tif")
    content = path.read_bytes()
    declared = b'<?xml version="1.0" encoding="UTF-8"?>'
    assert declared in content
    path.write_bytes(content.replace(declared, b'<!DOCTYPE a [<!ENTITY b "c">]>'.ljust(len(declared))))
    assert not is_complete(path, SPEC)


def remove(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a block gone": lambda mask: remove(next(mask.glob("0/**/1/2"))),
    "a block empty": lambda mask: next(file for file in mask.glob("0/**/1/2")).write_bytes(b"") and None,
    "a smaller block gone": lambda mask: remove(next(mask.glob("1/**/0/1"))),
    "a level gone": lambda mask: remove(mask / "1"),
    "a level's metadata gone": lambda mask: remove(next(mask.glob("1/*zarr*"))),
    "the blocks' metadata gone": lambda mask: remove(next(mask.glob("0/*zarr*"))),
}


@pytest.mark.parametrize("name", ["mask.zarr", HIDDEN])
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_mask_is_gone_on_with(tmp_path: Path, name: str, ngff: str, kind: str) -> None:
    path = make(tmp_path, name, ngff=ngff)
    before = content_of(path)
    DAMAGE[kind](path)
    assert not is_complete(path, SPEC, ngff=ngff)
    assert not path.exists()
    writer = create_mask(path, SPEC, ngff=ngff)
    ids, lacking = ids_of(SPEC), 0
    for (region, z), is_done in zip(writer.base.blocks(), writer.survey().done.flat, strict=True):
        if not is_done:
            lacking += 1
            writer.write(region, ids[z][region.slices], z)
    assert lacking == (1 if kind.startswith("a block") else 0)
    writer.finish()
    assert is_complete(path, SPEC, ngff=ngff)
    assert content_of(path) == before


@pytest.mark.parametrize("step", range(1, 6))
def test_reopening_can_be_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    path = make(tmp_path, "mask.zarr")
    remove(path / "0/c/1/2")
    calls: list[None] = []
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, dying(getattr(os, name), calls, step))
        with pytest.raises(Killed):
            is_complete(path, SPEC)
    # whoever reads it meanwhile finds it unfinished or as it was, but never half of it
    if path.exists() and status(path).state == "complete":
        assert len(open_mask(path).levels) == 2
    else:
        with pytest.raises(MaskError):
            open_mask(path)
    assert status(path).done == 19
    assert not is_complete(path, SPEC)
    writer = create_mask(path, SPEC)
    assert writer.survey().done.sum() == 19
    fill(writer, ids_of(SPEC))
    writer.finish()
    assert is_complete(path, SPEC)
    assert names(tmp_path) == ["mask.zarr"]


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif", HIDDEN])
@pytest.mark.parametrize("old", [False, True])
def test_finishing_can_be_killed_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: bool
) -> None:
    spec = spec_of((600, 40), 600, 200)
    if name == HIDDEN:
        make_image(tmp_path / "image.zarr", "0.5", (1, 2))
    path = tmp_path / name
    step = 0
    while True:
        step += 1
        if old:
            finished(path, replace(spec, fingerprint={}), overwrite=True)
        writer = create_mask(path, spec, overwrite=old)
        fill(writer, ids_of(spec))
        calls: list[None] = []
        with monkeypatch.context() as patch:
            for call in ("replace", "rename", "fsync", "rmdir"):
                patch.setattr(os, call, dying(getattr(os, call), calls, step))
            try:
                writer.finish()
            except Killed:
                pass
            else:
                break
        if not is_complete(path, spec):
            again = create_mask(path, spec, overwrite=old)
            assert again.survey().done.all()
            assert try_finish(again)
        assert is_complete(path, spec)
        # a new list of an image's labels, killed before it got its name, is hidden and small, and stays
        assert [one for one in names(path.parent) if "zarr.json" not in one] == [path.name]
        remove(path)
    assert step > 4


def test_what_is_being_replaced_is_not_reopened(tmp_path: Path) -> None:
    path = make(tmp_path, "mask.zarr")
    writer = create_mask(path, SPEC, overwrite=True)
    remove(path / "0/c/1/2")
    assert not is_complete(path, SPEC)
    with pytest.raises(MaskError, match="exists; name another output, or use --overwrite"):
        create_mask(path, SPEC)
    fill(writer, ids_of(SPEC))
    assert try_finish(writer)
    assert is_complete(path, SPEC)


def test_a_folder_in_progress_survives_beside_a_complete_file(tmp_path: Path) -> None:
    path = make(tmp_path, "mask.tif")
    writer = create_mask(path, SPEC, overwrite=True)
    writer.write(Region(0, 0, 64, 64), np.ones((64, 64), np.uint8))
    (tmp_path / temporary_name(path).name).mkdir()
    assert is_complete(path, SPEC)
    assert names(tmp_path) == ["mask.tif", "mask.tif.partial"]
    assert writer.survey().done.sum() == 1
    assert not try_finish(writer)
    fill(writer, ids_of(SPEC))
    assert is_complete(path, SPEC)
    assert names(tmp_path) == ["mask.tif"]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("name", [*FILES, HIDDEN])
def test_status_and_going_on_need_only_the_name(tmp_path: Path, name: str, ngff: str) -> None:
    path = tmp_path / name
    if name == HIDDEN:
        make_image(tmp_path / "image.zarr", "0.5", (1, 2))
    writer, ids = create_mask(path, SPEC, ngff=ngff), ids_of(SPEC)
    blocks = list(writer.base.blocks())
    for region, z in blocks[:15]:
        writer.write(region, ids[z][region.slices], z)
    writer.base.objects(*blocks[0])[0].write_bytes(b"damaged")
    found = status(str(path))
    assert (found.path, found.state, found.blocks, found.done, found.damaged) == (path, "partial", 20, 14, 1)
    assert (found.spec.shape, dict(found.spec.fingerprint)) == (SPEC.shape, {"model": "a", "tile": [64, 64]})

    again = open_partial(path)
    assert not try_finish(again)
    for region, z in blocks[15:] + blocks[:1]:
        again.write(region, ids[z][region.slices], z)
    assert try_finish(again, {"finished": "by hand"})
    assert is_complete(path, SPEC, ngff=ngff)
    found = status(path)
    assert (found.state, found.blocks, found.done, found.damaged) == ("complete", 20, 20, 0)
    assert found.spec.provenance["finished"] == "by hand"
    with pytest.raises(FinishedError, match="is finished; nothing is left to do"):
        open_partial(path)


def test_status_tells_the_damage_of_a_complete_mask(tmp_path: Path) -> None:
    path = make(tmp_path, "mask.zarr")
    remove(path / "1/c/0/3")
    (path / "0/c/1/2").write_bytes(b"damaged")
    found = status(path)
    assert (found.state, found.blocks, found.done, found.damaged) == ("complete", 20, 19, 2)


def test_a_mask_whose_end_was_interrupted_is_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is written before it is renamed."""
    path = tmp_path / "mask.zarr"
    writer = create_mask(path, SPEC)
    fill(writer, ids_of(SPEC))
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target == path:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        writer.finish()
    monkeypatch.undo()
    found = status(path)
    assert (found.state, found.blocks, found.done) == ("partial", 20, 20)
    assert try_finish(open_partial(path))
    assert is_complete(path, SPEC)


def test_what_is_no_mask_has_no_status(tmp_path: Path) -> None:
    (tmp_path / "image.tif").write_bytes(b"II*\0")
    (tmp_path / "folder.zarr").mkdir()
    for name in ("nothing.zarr", "image.tif", "folder.zarr"):
        for ask in (status, open_partial):
            with pytest.raises(MaskError, match="is no mask written by tilesegment, and none of that name"):
                ask(tmp_path / name)
