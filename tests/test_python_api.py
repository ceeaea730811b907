"""The package as one meets it in Python: names, version, typed keywords, a call for every command."""

import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner

import tilesegment
from tilesegment.errors import PlanError
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
    assert set(tilesegment.__all__) <= set(listed.split())
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


# the call of each command: a public name, or where it is
CALLS = {
    "predict": "predict",
    "objects": "find_objects",
    "summary": "summarise",
    "status": "status",
    "finish": "masks.open_partial",
    "train": "train",
    "evaluate": "evaluate",
    "verify": "verify",
    "bench": "bench",
    "preview": "draw_preview",
    "tissue": "write_tissue",
    "info": "describe",
    "models": "bundled_models",
    "networks": "describe_network",
    "suggest": "suggest",
    "view": "viewer.open_scene",
    "open": "viewer.elsewhere.open_for",
    "import": "import_weights",
    "export": "export",
}


def test_every_command_has_its_call() -> None:
    from importlib import import_module

    from tilesegment_cli.main import tileseg

    assert CALLS.keys() == tileseg.commands.keys()
    for command, call in CALLS.items():
        module, _, name = call.rpartition(".")
        assert module or name in tilesegment.__all__
        function = getattr(import_module(f"tilesegment.{module}".rstrip(".")), name)
        assert callable(function) and function.__doc__, command
    assert CliRunner().invoke(tileseg, ["--version"]).output.split()[-1] == tilesegment.__version__
