"""Damage, full disks, hostile metadata: what is refused, what stays whole."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_masks import fill, finished, ids_of, is_stored, names, spec_of

from tilesegment.errors import MaskError
from tilesegment.files import temporary_name
from tilesegment.geometry import Region
from tilesegment.masks import create_mask, open_mask, status


def damage(path: Path, kind: str) -> None:
    """Damages one stored object."""
    content = bytearray(path.read_bytes())
    if kind == "flip":
        content[20] ^= 4
    elif kind == "truncate":
        del content[len(content) // 2 :]
    elif kind == "zero":
        content[:] = bytes(len(content))
    else:
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["flip", "truncate", "zero", "empty"])
def test_a_damaged_block_is_noticed_and_can_be_written_again(tmp_path: Path, kind: str) -> None:
    spec = spec_of((150, 600), 128, 32)
    ids = ids_of(spec)[0]
    writer = create_mask(tmp_path / "mask.zarr", spec)
    fill(writer, ids[None])
    region = Region(128, 256, 150, 384)
    (stored,) = writer.base.objects(region, 0)
    damage(stored, kind)
    # a flipped bit is only noticed when the pyramid is built
    with pytest.raises(MaskError, match="cannot read .*c/1/2" if kind == "flip" else "lacks 1 blocks"):
        writer.finish()
    assert names(tmp_path) == ["mask.zarr.partial"]
    writer.write(region, ids[region.slices])
    writer.finish()
    assert np.array_equal(open_mask(tmp_path / "mask.zarr").read(Region.of_shape(spec.shape)), ids)


@pytest.mark.parametrize("kind", ["flip", "truncate", "zero", "empty", "missing"])
def test_damage_to_a_finished_mask_raises_on_reading(tmp_path: Path, kind: str) -> None:
    finished(tmp_path / "mask.zarr", spec_of((70, 70)))
    mask = open_mask(tmp_path / "mask.zarr")
    (stored,) = mask.levels[0].objects(Region(0, 0, 32, 32), 0)
    if kind == "missing":
        stored.unlink()
    else:
        damage(stored, kind)
    with pytest.raises(MaskError, match="c/0/0") as caught:
        mask.read(Region(0, 0, 70, 70))
    assert "\n" not in str(caught.value)
    assert mask.read(Region(32, 32, 70, 70)).shape == (38, 38)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Blosc alone lets most of these through."""
    finished(tmp_path / "mask.zarr", spec_of((32, 32)))
    mask = open_mask(tmp_path / "mask.zarr")
    (stored,) = mask.levels[0].objects(Region(0, 0, 32, 32), 0)
    content = stored.read_bytes()
    for place in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        stored.write_bytes(damaged)
        with pytest.raises(MaskError, match="cannot read"):
            mask.read(Region(0, 0, 32, 32))


FULL_DISK = """
import resource, signal, sys
import numpy as np
from test_masks import fill, ids_of, spec_of
from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks import create_mask

path, limit = sys.argv[1], int(sys.argv[2])
spec = spec_of((600, 600), 256, 64)
writer = create_mask(path, spec, overwrite=True)
ids = ids_of(spec, seed=2)
if limit == 30_000:  # blocks fit, the exported file does not
    fill(writer, ids)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    fill(writer, ids)
    writer.finish()
except MaskError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX")
@pytest.mark.parametrize(("name", "limit"), [("mask.zarr", 1000), ("mask.tif", 30_000), ("mask.png", 30_000)])
def test_a_full_disk_is_named_and_damages_nothing(tmp_path: Path, name: str, limit: int) -> None:
    path = tmp_path / name
    spec = spec_of((600, 600), 256, 64)
    finished(path, spec, seed=1)
    before = {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert "File too large" in done.stdout, done
    assert str(tmp_path) in done.stdout
    assert done.stdout.count("\n") == 1
    assert {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()} == before

    ids = finished(path, spec, seed=2, overwrite=True)
    if name == "mask.zarr":
        assert np.array_equal(open_mask(path).read(Region.of_shape(spec.shape)), ids[0])
    assert names(tmp_path) == [name]


def test_a_block_whose_folder_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", spec_of((70, 70)))
    (writer.base.path / "c").write_text("in the way")
    with pytest.raises(MaskError, match=r"cannot write .*mask\.zarr\.partial/0: "):
        writer.write(Region(0, 0, 32, 32), np.zeros((32, 32), np.uint8))


def test_a_late_block_does_not_revive_a_finished_mask(tmp_path: Path) -> None:
    spec = spec_of((20, 20))
    writer = create_mask(tmp_path / "mask.zarr", spec)
    fill(writer, ids_of(spec))
    writer.finish()
    with pytest.raises(MaskError, match="is gone"):
        writer.write(Region(0, 0, 20, 20), np.zeros((20, 20), np.uint8))
    assert names(tmp_path) == ["mask.zarr"]


def test_a_late_block_does_not_get_into_a_mask_that_was_begun_anew(tmp_path: Path) -> None:
    """A worker may still be at it when its run was killed and another one begun."""
    late = create_mask(tmp_path / "mask.zarr", spec_of((20, 20)))
    late.write(Region(0, 0, 20, 20), np.ones((20, 20), np.uint8))
    create_mask(tmp_path / "mask.zarr", spec_of((20, 20)))
    late.write(Region(0, 0, 20, 20), np.ones((20, 20), np.uint8))
    anew = create_mask(tmp_path / "mask.zarr", spec_of((20, 20), fingerprint={"model": "b"}), overwrite=True)
    with pytest.raises(MaskError, match="is gone"):
        late.write(Region(0, 0, 20, 20), np.ones((20, 20), np.uint8))
    assert not is_stored(anew, Region(0, 0, 20, 20))


def test_what_an_interrupted_replacement_leaves_is_mended(tmp_path: Path) -> None:
    """Between the two renames of a replacement the old mask lies aside and the new one is complete but not renamed."""
    path, spec = tmp_path / "mask.zarr", spec_of((40, 40))
    finished(path, spec, seed=1)
    path.rename(temporary_name(path))
    writer = create_mask(path, spec)
    fill(writer, ids_of(spec, seed=2))
    writer.finish()
    assert names(tmp_path) == ["mask.zarr"]


def test_an_interrupted_beginning_or_deletion_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr.partial").mkdir()
    create_mask(tmp_path / "empty.zarr", spec_of((40, 40)))
    create_mask(tmp_path / "mask.zarr", spec_of((40, 40)))
    (tmp_path / "mask.zarr.partial/0/zarr.json").unlink()
    (tmp_path / "mask.zarr.partial/0").rmdir()
    writer = create_mask(tmp_path / "mask.zarr", spec_of((40, 40)))
    assert not is_stored(writer, Region(0, 0, 32, 32))


def rewrite(path: Path, *keys: str, value: Any) -> None:
    """Sets one entry of a JSON document."""
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))


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
        (("layout", "halvings"), []),
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


@pytest.mark.parametrize("content", ["", "[", "[]", "[" * 100_000, '{"attributes": 3}', '{"attributes": {}}'])
def test_what_is_no_mask_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mask.zarr").mkdir()
    (tmp_path / "mask.zarr/zarr.json").write_text(content)
    with pytest.raises(MaskError):
        open_mask(tmp_path / "mask.zarr")
    with pytest.raises(MaskError):
        create_mask(tmp_path / "mask.zarr", spec_of((40, 40)), overwrite=True)
    with pytest.raises(MaskError, match="is no mask"):
        open_mask(tmp_path / "nothing.zarr")


def test_hostile_arrays_are_refused(tmp_path: Path) -> None:
    finished(tmp_path / "mask.zarr", spec_of((40, 40)))
    rewrite(tmp_path / "mask.zarr/0/zarr.json", "shape", value=[10**15, 10**15])
    with pytest.raises(MaskError, match="not the one that its group describes"):
        open_mask(tmp_path / "mask.zarr")
    (tmp_path / "mask.zarr/0/zarr.json").write_text("{}")
    with pytest.raises(MaskError, match="cannot open the array"):
        open_mask(tmp_path / "mask.zarr")
