"""`tileseg` with masks on a real S3 server: predicted, gone on with, finished, read by other commands."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, fill, runner
from s3_server import CREDENTIALS, S3Server

from tilesegment.geometry import Region
from tilesegment.masks import open_mask, status
from tilesegment.prediction import tiling
from tilesegment.stores import Location, store_at

LINE = "predict slide.tif -m toy.safetensors --tile 64 --precision fp32 --quiet"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiling, "BLOCK", 64)
    return runner(monkeypatch, capsys)


@pytest.fixture
def options(s3: Location) -> str:
    """What reaches the server of `s3`."""
    return " ".join(f"--store-option {name}={value}" for name, value in s3.options)


def keys(place: Location) -> set[str]:
    """The first parts of all keys."""
    return {entry.key.partition("/")[0] for entry in store_at(place).list()}


def ids_of(place: str | Path | Location) -> np.ndarray:
    mask = open_mask(place)
    return mask.read(Region.of_shape(mask.spec.shape))


def test_a_mask_is_predicted_and_read_by_other_commands(run: Run, s3: Location, options: str) -> None:
    assert run(f"{LINE} --out here.zarr").code == 0
    found = run(f"{LINE} --out {s3}/a/mask.zarr {options} --json")
    assert found.code == 0, found
    assert json.loads(found.out)["out"] == f"{s3}/a/mask.zarr"
    assert np.array_equal(ids_of(s3 / "a/mask.zarr"), ids_of("here.zarr"))
    again = json.loads(run(f"{LINE} --out {s3}/a/mask.zarr {options} --json").out)
    assert (again["blocks"], again["complete"]) == (0, True)
    (said,) = json.loads(run(f"status {s3}/a/mask.zarr {options} --json").out)
    assert (said["path"], said["state"]) == (f"{s3}/a/mask.zarr", "complete")
    assert keys(s3 / "a") == {"mask.zarr"}


def test_parts_are_finished_and_a_mask_is_replaced(run: Run, s3: Location, options: str) -> None:
    line = f"{LINE} --out {s3}/mask.zarr {options}"
    assert run(f"{line} --part 1/2").code == 0
    assert status(s3 / "mask.zarr").state == "partial"
    found = run(f"finish {s3}/mask.zarr {options}")
    assert found.code == 1 and found.err.count("\n") == 1 and "lacks" in found.err
    assert run(f"{line} --part 2/2").code == 0
    assert "is finished" in run(f"finish {s3}/mask.zarr {options}").err
    assert "use --overwrite" in run(f"{line} --tta").err
    assert run(f"{line} --tta --overwrite").code == 0
    assert keys(s3) == {"mask.zarr"} and len(keys(s3 / "mask.zarr")) == 2


def test_workers_write_to_a_store_and_nothing_tells_the_secret(
    run: Run, s3: Location, options: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "list.csv").write_text(f"image,out\nslide.tif,{s3}/mask.zarr\n")
    found = run(f"{LINE[: LINE.index('slide')]} --list list.csv {LINE[LINE.index('-m') :]} --out-dir logs {options}")
    assert found.code == 0, found
    told = found.out + found.err + caplog.text
    told += "".join(path.read_text() for path in (tmp_path / "logs").rglob("*") if path.is_file())
    told += "".join(repr(store_at(s3).get(entry.key)) for entry in store_at(s3).list())
    assert f"{s3}/mask.zarr" in told
    assert not [value for value in CREDENTIALS.values() if value in told]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--out s3://there-is-none/mask.zarr", "there-is-none"),
        ("--out ftp://host/mask.zarr", "ftp://"),
        ("--out {s3}/mask.tif", "only NAME.zarr"),
        ("--out {s3}/mask.zarr --preview {s3}/p.png", "preview"),
        ("--out {s3}/mask.zarr --objects {s3}/cells.geojson", "objects"),
        ("--out-dir {s3}/masks", "--out-dir"),
        ("--out {s3}/mask.zarr --store-option secret_access_key=1", "environment"),
    ],
)
def test_what_a_store_does_not_take_is_one_line(
    run: Run, s3: Location, options: str, arguments: str, said: str
) -> None:
    found = run(f"{LINE} {options} {arguments.format(s3=s3)}")
    assert found.code in (1, 2) and said in found.err and found.err.count("\n") == 1, found
    assert keys(s3) == set()


def test_a_server_that_denies_half_way_is_one_line_and_the_run_goes_on(
    run: Run, s3_server: S3Server, s3: Location, options: str
) -> None:
    line = f"{LINE} --out {s3}/mask.zarr {options}"
    assert run(f"{line} --part 1/2").code == 0
    s3_server.set_policy(s3, "Deny", "s3:PutObject")
    found = run(line)
    assert found.code == 1 and found.err.count("\n") == 1 and "denied" in found.err, found
    s3_server.set_policy(s3, "Allow")
    assert run(line).code == 0
    assert keys(s3) == {"mask.zarr"}
