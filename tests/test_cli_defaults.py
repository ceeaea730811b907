"""Defaults of options from files and variables: which one counts, and what is refused."""

from pathlib import Path

import click
import pytest
from command_line import Run

from tilesegment_cli.defaults import read_defaults, variables_of
from tilesegment_cli.main import tileseg


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TILESEG_CONFIG", "TILESEG_TILE", "TILESEG_PREDICT_TILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def parsed(run: Run, monkeypatch: pytest.MonkeyPatch, line: str, command: str = "predict") -> dict[str, object]:
    """What the command is called with."""
    seen: dict[str, object] = {}
    with monkeypatch.context() as patched:
        patched.setattr(tileseg.commands[command], "callback", lambda **given: seen.update(given))
        found = run(line)
    assert found.code == 0, found.err
    return seen


def test_the_order_is_as_the_help_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other is taken away, the strongest first."""
    Path("tilesegment.toml").write_text("tile = 1\n[predict]\ntile = 2\n")
    Path("mine.toml").write_text("tile = 3\n[predict]\ntile = 4\n")
    monkeypatch.setenv("TILESEG_TILE", "5")
    monkeypatch.setenv("TILESEG_PREDICT_TILE", "6")
    monkeypatch.setenv("TILESEG_CONFIG", "mine.toml")
    assert parsed(run, monkeypatch, "predict a --tile 7")["tile"] == 7
    assert parsed(run, monkeypatch, "predict a")["tile"] == 6
    monkeypatch.delenv("TILESEG_PREDICT_TILE")
    assert parsed(run, monkeypatch, "predict a")["tile"] == 5
    monkeypatch.delenv("TILESEG_TILE")
    assert parsed(run, monkeypatch, "predict a")["tile"] == 4
    Path("mine.toml").write_text("tile = 3\n")
    assert parsed(run, monkeypatch, "predict a")["tile"] == 3
    monkeypatch.delenv("TILESEG_CONFIG")
    assert parsed(run, monkeypatch, "predict a")["tile"] == 2
    Path("tilesegment.toml").write_text("tile = 1\n")
    assert parsed(run, monkeypatch, "predict a")["tile"] == 1
    Path("tilesegment.toml").unlink()
    assert parsed(run, monkeypatch, "predict a")["tile"] is None


def test_the_file_may_be_named_before_and_after_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.toml").write_text('mpp = "model"\nchannels = [0, 2]\noverwrite = true\n[predict]\nmin-area = 20\n')
    for line in ("--config mine.toml predict a", "predict a --config mine.toml", "predict --config=mine.toml a"):
        found = parsed(run, monkeypatch, line)
        assert (found["mpp"], found["channels"], found["overwrite"], found["min_area"]) == ("model", (0, 2), True, 20)
    # that of train is the config.json of a run
    assert parsed(run, monkeypatch, "train data --config run.json", "train")["config"] == "run.json"
    assert parsed(run, monkeypatch, "predict -- a --config", "predict")["images"] == ("a", "--config")


def test_lists_names_and_numbers_are_taken_as_they_are_typed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[predict]\n3d = true\nstore_option = ["region=x", "anonymous=true"]\nngff = 0.4\nroi = "0:5,1:9"\n'
    Path("tilesegment.toml").write_text(text + "source-mpp = 0.25\n")
    found = parsed(run, monkeypatch, "predict a")
    assert found["volume"] is True and found["ngff"] == "0.4" and found["source_mpp"] == 0.25
    assert str(found["roi"]) == "0:5,1:9" or found["roi"].shape == (5, 8)
    assert "region" in str(found["store_options"])


REFUSED = [
    ("tlie = 5", "tilesegment.toml: no command has an option 'tlie'; did you mean tile?"),
    ("[predict]\nbudget = '2h'", "tilesegment.toml: tileseg predict has no option 'budget'"),
    ("[predct]\ntile = 5", "tilesegment.toml: there is no command 'predct'; did you mean predict?"),
    ("[predict]\nimages = 'a'", "tilesegment.toml: tileseg predict has no option 'images'"),
    ("tile = true", "tilesegment.toml: tile is True; allowed: a text, a number or a list of these"),
    ("[predict]\ntta = 1", "tilesegment.toml: tta is 1; allowed: true or false"),
    ("tile = 1979-05-27", "allowed: a text, a number or a list of these"),
    ("tile = ", "tilesegment.toml is no TOML: "),
    ("[predict]\ntile = 'big'", "'--tile': 'big' is not a valid integer, in tilesegment.toml"),
    ("[predict]\nbatch = 0", "'0' is not a batch; write auto, or a number of tiles from 1 on, in tilesegment.toml"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_no_command_has_is_refused_in_one_line(text: str, said: str, run: Run) -> None:
    Path("tilesegment.toml").write_text(text)
    found = run("predict slide.tif --out m.zarr")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert found.err.startswith("Error: ") and said in found.err, found.err


def test_a_wrong_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILESEG_TILE", "big")
    assert "'big' is not a valid integer, in the variable TILESEG_TILE (see" in run("predict a").err


def test_it_is_said_what_was_read_and_which_variable_is_nobodys(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.toml").write_text("json = false\n")
    Path("tilesegment.toml").write_text("")
    monkeypatch.setenv("TILESEG_TYLE", "5")
    found = run("--config mine.toml models")
    assert found.err == "Note: defaults of tilesegment.toml, mine.toml\nNote: no option is named by TILESEG_TYLE\n"
    monkeypatch.setenv("TILESEG_QUIET", "1")
    assert "defaults" not in run("finish missing.zarr").err


def test_a_file_that_cannot_be_read_is_named(run: Run) -> None:
    Path("folder").mkdir()
    for name in ("missing.toml", "folder"):
        found = run(f"--config {name} models")
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert name in found.err


def test_no_two_options_share_a_variable() -> None:
    own = frozenset({"config", "log-file", "debug"})
    for command in tileseg.commands.values():
        names = [name for each in variables_of(command, own).values() for name in each]
        assert len(names) == len(set(names))
    assert "TILESEG_CONFIG" not in variables_of(tileseg.commands["train"], own)["config"]
    assert variables_of(tileseg.commands["predict"], own)["volume"] == ["TILESEG_PREDICT_3D", "TILESEG_3D"]


def test_every_option_can_stand_in_a_file() -> None:
    """By the name that the help shows."""
    for name, command in tileseg.commands.items():
        for one in command.params:
            if isinstance(one, click.Option):
                key = max(one.opts, key=len).lstrip("-")
                Path("a.toml").write_text(f"[{name}]\n{key} = {'true' if one.is_flag else '1'}\n")
                assert read_defaults("a.toml", tileseg.commands).values[name].keys() == {one.name}
