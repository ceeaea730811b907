"""The comparison with other tools, at toy size."""

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import toy_model

from tilesegment.prediction.devices import choose_precision

EXAMPLES = Path(__file__).parents[1] / "examples"
TOY = ["--size", "300", "--tile", "252", "--base", "4", "--threads", "1"]
pytestmark = pytest.mark.slow
ROUNDED = 2  # pixels of 90,000 that a CPU may put into another class, as it sums in another order for another shape
# int8 takes long to calibrate, and is tested with its predictor
ROWS = "untiled,ours,ours-bf16,monai,monai-exact,torch-em,torch-em-exact,dask"


def needs(package: str) -> Any:
    """Skip where a package is missing."""
    why = f"not installed: {package}; see examples/compare_peers_requirements.txt"
    return pytest.mark.skipif(find_spec(package) is None, reason=why)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, with the modules beside it that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module("compare_peers")


@pytest.fixture(scope="module")
def peers(program: ModuleType) -> ModuleType:
    """What it compares."""
    return sys.modules["peers"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The figures of one run of all that is installed, by name."""
    file = tmp_path_factory.mktemp("peers") / "found.json"
    command = [sys.executable, EXAMPLES / "compare_peers.py", *TOY, "--only", ROWS, "--json", file]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    found = json.loads(file.read_text())
    lines = done.stdout.splitlines()
    assert json.loads(lines[-1]) == found["conditions"]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert [cells[:2] for cells in table] == [[row["name"], row["precision"]] for row in found["rows"]]
    assert [found["conditions"][key] for key in ("size", "tile", "step", "threads")] == [300, 252, 64, 1]
    return {row["name"]: row for row in found["rows"]}


@pytest.fixture
def folder(program: ModuleType, tmp_path: Path) -> Path:
    """An image and a model, as a contender's process finds them."""
    image = program.draw(tmp_path / program.IMAGE, 300)
    program.random_model(4, image).save(tmp_path / program.MODEL)
    return tmp_path


def test_ours_is_the_untiled_mask_and_all_is_measured(rows: dict[str, dict[str, Any]]) -> None:
    # the truth of MONAI's defaults comes with them
    assert [name for name in rows if name != "untiled-padded"] == ROWS.split(",")
    assert ("untiled-padded" in rows) == (rows["monai"]["problem"] is None)
    assert rows["untiled"]["differ"] == 0
    assert rows["ours"]["differ"] <= ROUNDED
    for row in rows.values():
        if row["problem"] is None:
            assert min(row["first"], row["seconds"]) > 0
            assert row["mpx_per_s"] == pytest.approx(0.09 / row["seconds"])
            assert row["times_ours"] == pytest.approx(row["seconds"] / rows["ours"]["seconds"])
            # PyTorch alone takes more than the first
            assert 1e8 < row["peak_bytes"] < 4e9
            assert row["share"] == row["differ"] / 300**2


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("monai", marks=needs("monai")),
        pytest.param("monai-exact", marks=needs("monai")),
        pytest.param("torch-em", marks=needs("torch_em")),
        pytest.param("torch-em-exact", marks=needs("torch_em")),
    ],
)
def test_others_give_the_untiled_mask_only_where_they_are_made_to(rows: dict[str, dict[str, Any]], name: str) -> None:
    assert rows[name]["problem"] is None
    differ = rows[name]["differ"]
    assert differ <= ROUNDED if name.endswith("exact") else differ > 100 * ROUNDED


def test_half_precision_is_for_cpus_that_have_it(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["ours-bf16"]
    if choose_precision(torch.device("cpu")) == "bf16":
        assert 0 < row["share"] < 0.05
    else:
        assert (row["problem"], row["seconds"]) == ("needs bf16", None)


def test_dask_differs_near_the_border_only(program: ModuleType, peers: ModuleType, folder: Path) -> None:
    """It repeats the edge pixel there; inside, every tile has its context and stands on the grid."""
    masks = {}
    for name in ("untiled", "dask"):
        peers.compete(name, folder, 252)
        masks[name] = program.read_mask(program.Setup(folder, 300, 252, 1), name)
    wrong = masks["untiled"] != masks["dask"]
    assert np.count_nonzero(wrong) > 100 * ROUNDED
    assert np.count_nonzero(wrong[96:-96, 96:-96]) <= ROUNDED
    assert 0.2 < masks["untiled"].mean() < 0.8, "the classes of a random model are about equally frequent"


def test_the_padded_network_is_the_same_function(peers: ModuleType) -> None:
    """Inside, where no zeros reach; a valid U-Net of depth 4 pools on a grid that begins 2 before its input."""
    model = toy_model(depth=4)
    torch.manual_seed(1)
    x = torch.randn(1, 1, 400, 400)
    valid = model.network(x[..., 18:270, 18:270])
    same = peers.padded(model).network(x)
    assert valid.shape[-1] == 68
    torch.testing.assert_close(same[..., 110:178, 110:178], valid, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(same[..., 111:179, 110:178], valid, rtol=1e-2, atol=1e-2)


def test_rounds_are_summed_up(program: ModuleType, tmp_path: Path) -> None:
    figures = [(3.0, 1.0, 500), (9.0, 4.0, 700), (4.0, 2.0, 600)]
    rounds = [dict(zip(("first", "seconds", "peak_bytes"), each, strict=True)) for each in figures]
    found = {"dask": rounds, "ours": [{"seconds": 0.5}], "untiled": []}
    row = program.row_of("dask", None, found, program.Setup(tmp_path, 1000, 572, 2))
    assert (row.first, row.seconds, row.mpx_per_s, row.times_ours, row.peak_bytes) == (4.0, 2.0, 0.5, 4.0, 700)
    assert (row.differ, row.share) == (None, None)
    assert program.table([row]).endswith("| no untiled mask |")


def test_one_that_fails_is_a_row_that_says_why(
    program: ModuleType, peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its process has not heard of it
    monkeypatch.setitem(program.CONTENDERS, "nobody", peers.Contender(peers.untiled, truth="nobody"))
    done = CliRunner().invoke(program.main, [*TOY, "--only", "nobody"])
    assert done.exit_code == 1
    assert "| nobody | fp32 | failed: KeyError: 'nobody' |" in done.stdout


def test_what_cannot_be_is_refused_in_a_line(program: ModuleType, tmp_path: Path) -> None:
    colour = tmp_path / "rgb.safetensors"
    toy_model(channels=3).save(colour)
    for arguments, code, named in (
        (["--only", "ours,keras"], 2, "'keras'"),
        (["--model", "em-membrane", "--base", "4"], 2, "--base"),
        (["--size", "256", "--base", "2", "--tile", "260"], 1, "260"),
        (["--size", "256", "--model", str(colour)], 1, "3 channels"),
        (["--size", "256", "--model", "none.safetensors"], 1, "none.safetensors"),
    ):
        done = CliRunner().invoke(program.main, arguments)
        assert (done.exit_code, named in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.output
