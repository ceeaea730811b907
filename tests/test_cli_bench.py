"""`tileseg bench`: the table, JSON, one line for a mistake, and nothing left when it is stopped."""

import json
import re
import signal
from pathlib import Path

import pytest
from command_line import Run

from tilesegment_cli.progress import ProgressReport

SMALL = "--model toy.safetensors --tile 72 --seconds 1 --precision fp32 --runtime pytorch"


@pytest.fixture
def scratch(folder: Path) -> Path:
    """Where the bench writes."""
    path = folder / "scratch"
    path.mkdir()
    return path


def test_json_is_all_there_is_on_stdout(run: Run, scratch: Path) -> None:
    done = run(f"bench slide.tif {SMALL} --json -q --dir scratch")
    assert (done.code, done.err) == (0, "")
    (line,) = done.out.splitlines()
    found = json.loads(line)
    wanted = {"predictor", "read", "write", "end_to_end", "idle_end_to_end", "copy"}
    rates = {f"{name}_mpx_per_s" for name in wanted} | {"end_to_end_ratio", "matmul_tflops", "predictor_tflops"}
    assert all(found[name] > 0 for name in rates)
    assert found["end_to_end_ratio"] == pytest.approx(found["end_to_end_mpx_per_s"] / found["predictor_mpx_per_s"])
    assert (found["image"], found["region"], found["best"]) == ("slide.tif", [0, 0, 130, 150], None)
    assert not list(scratch.iterdir())
    assert sorted(path.name for path in scratch.parent.iterdir()) == [
        *("rgb.png", "rgb.safetensors", "scratch", "slide.tif", "stack.tif", "toy.safetensors")
    ]


def test_the_table(run: Run, scratch: Path) -> None:
    done = run(f"bench {SMALL} --size 128 --dir scratch")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "image     drawn, 1 channel(s) of uint8"
    assert lines[2].startswith("model     toy-2; tile 72 px, of which 32 are kept, ")
    assert lines[4].split() == [] and lines[5].split() == ["Mpx/s", "TFLOP/s"]
    names = ("predictor alone", "product of", "reading alone", "writing alone", "pyramid", "end to end", "copy")
    for name in names:
        assert any(line.startswith(name) for line in lines), name
    end = next(line for line in lines if line.startswith("end to end "))
    assert re.search(r" \d[\d.,]*   \d+\.\d % of the predictor, \d+\.\d\d s to start$", end)
    assert not list(scratch.iterdir())


def test_a_sweep_names_the_best_in_its_last_line(run: Run, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.bench.sweep.STEPS", (64,))
    monkeypatch.setattr("tilesegment.bench.sweep._ALONE", 0.01)
    done = run(f"bench {SMALL} --size 128 --dir scratch --sweep --json")
    assert done.code == 0
    found, lines = json.loads(done.out), done.err.splitlines()
    best = found["best"]
    assert best in found["sweep"]
    batch = f" --batch {best['batch']}" if best["batch_given"] else ""
    runtime = f" --runtime {best['runtime']}" if best["runtime_given"] else ""
    times = f"({best['times_default']:.2f} times the default)"
    assert lines[-1] == f"best here: --tile {best['tile']}{batch} --precision fp32{runtime} {times}"
    head = next(number for number, line in enumerate(lines) if line.split()[:2] == ["tile", "kept"])
    rows = [line.split() for line in lines[head + 1 :]][: len(found["sweep"])]
    for row, trial in zip(rows, found["sweep"], strict=True):
        assert row[:4] == [str(trial["tile"]), str(trial["step"]), str(trial["batch"]), trial["precision"]]
    assert {row[3] for row in rows} == {"fp32", "bf16"}
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench nothing.tif", "nothing.tif does not exist"),
        ("bench toy.safetensors --model toy.safetensors", "toy.safetensors is not an image that can be read"),
        ("bench slide.tif --model slide.tif", "slide.tif"),
        ("bench slide.tif --model nobody", "no model nobody"),
        ("bench rgb.png", "rgb.png has 3 channels and no model was named"),
        ("bench slide.tif --model rgb.safetensors", "slide.tif has 1 channels, the model takes 3"),
        ("bench slide.tif --model toy.safetensors --tile 71", "tile 71 does not fit the network"),
        ("bench slide.tif --size 100", "size is of a drawn image"),
        ("bench --size 10", "size is 10; allowed: 64 to 65536 pixels"),
        ("bench --seconds 0", "seconds is 0; allowed: 1 to 86,400"),
        ("bench --dir nowhere", "nothing can be written to nowhere"),
        ("bench --dir slide.tif", "nothing can be written to slide.tif"),
        ("bench --precision fp8", "precision 'fp8' is unknown"),
        ("bench --device cuda:99", "device 'cuda:99' is not here"),
    ],
)
def test_one_line_for_what_cannot_be(line: str, message: str, run: Run, scratch: Path) -> None:
    done = run(line if "--dir" in line else f"{line} --dir scratch")
    assert done.code == 1
    assert done.out == ""
    assert message in done.err and done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("line", ["--size many", "--seconds soon", "--batch 0", "a.tif b.tif", "--normalise tile"])
def test_wrong_usage(line: str, run: Run, folder: Path) -> None:
    done = run(f"bench {line}")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "see tileseg bench --help" in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, code: int, run: Run, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[Path] = []

    def show(self: ProgressReport, done: float, text: str, seconds: float) -> None:
        if text.startswith("predicting, round 2"):
            there.extend(scratch.rglob("*"))
            signal.raise_signal(number)

    monkeypatch.setattr(ProgressReport, "show", show)
    before = signal.getsignal(signal.SIGTERM)
    done = run(f"bench {SMALL} --size 128 --dir scratch")
    assert (done.code, done.out) == (code, "")
    assert there and not list(scratch.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


def test_help_says_what_is_written_where(run: Run) -> None:
    done = run("bench --help")
    assert done.code == 0
    text = " ".join(done.out.split())
    for words in ("[IMAGE]", "--sweep", "--dir FOLDER", "removed again", "as much as there is time for"):
        assert words in text, words
