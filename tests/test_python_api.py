"""The package as one meets it in Python: names, version, typed keywords, a call for every command."""

import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from click.testing import CliRunner
from command_calls import CALLS, OF_THE_SHELL
from conftest import toy_model

import tilesegment
from tilesegment.errors import DataError, MaskError, PlanError
from tilesegment.images.arrays import write_array
from tilesegment.objects.keywords import ObjectKeywords
from tilesegment.objects.settings import ObjectSettings
from tilesegment.prediction.keywords import (
    PredictKeywords,
    PredictObjectsKeywords,
    SettingsKeywords,
    TilingKeywords,
    WantedKeywords,
)
from tilesegment.prediction.settings import Outputs, Settings
from tilesegment.prediction.suggesting import Wanted
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.budget import seconds_of
from tilesegment.training.keywords import AugmentationKeywords, TrainingKeywords
from tilesegment.training.settings import TrainingSettings

ROOT = Path(__file__).parents[1]


def test_all_public_names_are_listed_before_they_are_imported() -> None:
    code = "import tilesegment, sys; print(*dir(tilesegment)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    listed, has_torch = done.stdout.splitlines()
    assert {name for name in listed.split() if not name.startswith("__")} == set(tilesegment.__all__) - {"__version__"}
    assert has_torch == "False"
    assert tilesegment.__version__ == version("tilesegment")


def test_a_name_is_looked_up_once() -> None:
    assert tilesegment.predict is vars(tilesegment)["predict"]


def typed(kind: Any) -> dict[str, Any]:
    """Fields and their types; `model` names a class that is not imported."""
    return {one.name: kind.__annotations__[one.name] for one in fields(kind) if one.name != "model"}


@pytest.mark.parametrize(
    ("keywords", "kind", "explicit", "wider"),
    [
        (SettingsKeywords, Settings, set(), set()),
        (TilingKeywords, Settings, {"device", "precision"}, set()),
        (WantedKeywords, Wanted, set(), set()),
        (ObjectKeywords, ObjectSettings, set(), {"classes", "border", "image"}),
        (AugmentationKeywords, Augmentation, set(), set()),
    ],
)
def test_keywords_are_the_fields_with_their_types(
    keywords: Any, kind: Any, explicit: set[str], wider: set[str]
) -> None:
    expected = {name: hint for name, hint in typed(kind).items() if name not in explicit}
    found = get_type_hints(keywords)
    assert found.keys() == expected.keys()
    assert {name for name, hint in expected.items() if found[name] != hint} == wider


def test_keywords_of_predict_are_those_of_settings_and_outputs() -> None:
    outputs = {name: hint for name, hint in typed(Outputs).items() if name not in ("mask", "keep_mask")}
    found = get_type_hints(PredictObjectsKeywords)
    expected = typed(Settings) | outputs
    assert found.keys() == expected.keys()
    assert {name for name in expected if found[name] != expected[name]} == {"objects", "object_settings"}
    assert found.keys() - get_type_hints(PredictKeywords).keys() == {"objects"}


def test_keywords_of_train_are_those_of_its_settings() -> None:
    expected = typed(TrainingSettings) | typed(Augmentation)
    found = get_type_hints(TrainingKeywords)
    assert expected.keys() - found.keys() == {"network"}
    assert {name for name in found if found[name] != expected[name]} == {"budget"}
    assert found["budget"] == float | str | None


CHECKED = """
import numpy as np
import tilesegment
from tilesegment import Result

array = np.zeros((64, 64), np.uint8)
mask: np.ndarray = tilesegment.predict(array, tile=572, axes="yx")
result: Result = tilesegment.predict("a.tif", "m.zarr", tile=572, objects="o.csv")
found: Result = tilesegment.predict("a.tif", objects=["o.csv"], halo=16)
tilesegment.train("data", budget="20m", elastic_sigma=3.0)
tilesegment.predict("a.tif", "m.zarr", tile="five")  # refused
tilesegment.predict("a.tif", "m.zarr", tyle=3)  # refused
tilesegment.predict(array, tyle=3)  # refused
wrong: np.ndarray = tilesegment.predict("a.tif", "m.zarr")  # refused
tilesegment.train("data", budget=[20])  # refused
tilesegment.train("data", bugdet=20)  # refused
tilesegment.evaluate("a.tif", "b.tif", clases=["x"])  # refused
tilesegment.find_objects("m.zarr", growth=3)  # refused
tilesegment.verify("a.tif", tile="five")  # refused
tilesegment.bench(batch="many")  # refused
tilesegment.suggest("m.zarr", "p.csv", cuont=3)  # refused
"""


@pytest.mark.slow
def test_mypy_refuses_wrong_keywords(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text(CHECKED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    refused = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    marked = {n for n, line in enumerate(CHECKED.splitlines(), 1) if line.endswith("# refused")}
    assert refused == marked, done.stdout


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("20m", 1200.0), ("1.5h", 5400.0)])
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_a_budget_that_is_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--budget is '20 minutes'; allowed: seconds, or a time such as 90s, 20m or 2h"):
        tilesegment.train(tmp_path, tmp_path / "run", budget="20 minutes")


def test_every_command_has_its_call() -> None:
    from importlib import import_module

    from tilesegment_cli.main import tileseg

    assert CALLS.keys() | OF_THE_SHELL == tileseg.commands.keys()
    for command, call in CALLS.items():
        module, _, name = call.rpartition(".")
        assert module or name in tilesegment.__all__
        function = getattr(import_module(f"tilesegment.{module}".rstrip(".")), name)
        assert callable(function) and function.__doc__, command
    assert CliRunner().invoke(tileseg, ["--version"]).output.split()[-1] == tilesegment.__version__


LABELS = np.zeros((40, 50), np.uint8)
LABELS[2:10, 3:12], LABELS[20:30, 20:45] = 1, 2


def test_objects_of_an_array_are_those_of_a_file(tmp_path: Path) -> None:
    write_array(tmp_path / "labels.zarr", LABELS, None)
    expected, found = (tilesegment.find_objects(one).table for one in (tmp_path / "labels.zarr", LABELS))
    assert expected is not None and found is not None
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert found["area_px"].tolist() == [72, 250]
    only = tilesegment.find_objects(LABELS, classes=["2"])
    assert only.count == 1 and only.mask == "array of 40 x 50 uint8"
    assert tilesegment.find_objects(np.stack([LABELS, LABELS]), axes="zyx").count == 4


def test_objects_of_an_array_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="this is an array of 40 x 50 uint8: save it"):
        tilesegment.find_objects(LABELS, tmp_path / "o.csv")
    with pytest.raises(PlanError, match="--axes is for arrays"):
        tilesegment.find_objects(tmp_path / "m.zarr", axes="yx")


def test_a_table_becomes_a_data_frame() -> None:
    found = tilesegment.find_objects(LABELS)
    if find_spec("pandas") is None:
        with pytest.raises(PlanError, match="pip install pandas"):
            found.to_pandas()
    else:
        assert found.to_pandas()["area_px"].tolist() == [72, 250]
    with pytest.raises(PlanError, match="were written to files"):
        replace(found, table=None).to_pandas()


def test_scores_of_arrays_are_those_of_files(tmp_path: Path) -> None:
    truth, mask = (LABELS > 0).astype(np.uint8), (LABELS > 1).astype(np.uint8)
    files = [write_array(tmp_path / f"{n}.zarr", one, None) for n, one in enumerate((mask, truth))]
    expected, found = tilesegment.evaluate(*files), tilesegment.evaluate(mask, truth)
    assert (found.confusion, found.accuracy, found.cells) == (expected.confusion, expected.accuracy, expected.cells)
    assert found.accuracy == 1 - 72 / 2000
    assert found.prediction == "array of 40 x 50 uint8"
    mixed = tilesegment.evaluate(np.stack([mask, mask]), np.stack([truth, truth]), axes="zyx")
    assert (mixed.pixels, mixed.accuracy) == (4000, found.accuracy)
    assert tilesegment.evaluate(mask, files[1]).confusion == found.confusion


def test_a_model_predicts() -> None:
    model, image = toy_model(), np.random.default_rng(0).integers(0, 256, (50, 60), np.uint8)
    np.testing.assert_array_equal(model.predict(image), tilesegment.predict(image, model=model))


def test_progress_is_a_line_that_changes(capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60), np.uint8)
    tilesegment.predict(image, model=toy_model(), progress=True)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.count("\r") == 2
    assert "100 %  array of 50 x 60 uint8" in said and ": complete, 0.00 Mpx" in said


def test_messages_on_arrays_name_no_file() -> None:
    with pytest.raises(
        DataError, match=r"^prediction the array of 40 x 50 uint8 is 1 x 40 x 50 .* of 40 x 49 uint8 1 x"
    ):
        tilesegment.evaluate(LABELS, LABELS[:, 1:])
    with pytest.raises(MaskError, match=r"^the array of 40 x 50 float64 holds float64"):
        tilesegment.find_objects(LABELS / 3)
