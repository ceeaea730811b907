"""The budget of a training run holds all that the command does, by a clock that the test turns."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_sets import write_pairs

import tilesegment
from tilesegment.training import TrainingRun, loop, run, validation
from tilesegment.training.budget import Budget
from tilesegment.training.loop import Record, Trainer

TOY: dict[str, Any] = {"base": 2, "depth": 1, "tile": 60, "precision": "fp32", "goal": "dice", "validation": 0.5}
# seconds that each takes
READING, UPDATE, DRAWING = 8.0, 3.0, 1.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("budget") / "em_data", 4, side=64)


class Clock:
    """Goes on when something is done that takes time, and only then; what is drawn is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, predicting: float, scoring: float) -> None:
        self.now, self.patch = 1000.0, monkeypatch
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.costs(run, "open_dataset", lambda *a, **k: READING)
        self.costs(Trainer, "update", lambda *a, **k: UPDATE)
        for name in ("draw_examples", "draw_curves", "draw_samples"):
            monkeypatch.setattr(run, name, lambda *a, **k: None)
        for name in ("draw_examples", "draw_curves", "draw_samples", "write_report"):
            self.costs(run, name, lambda *a, **k: DRAWING)
        for module in (loop, run, validation):
            self.costs(module, "predict_sections", lambda m, s, *a, tta=False: predicting * len(s) * (8 if tta else 1))
        for module in (loop, validation):
            self.costs(module, "judge", lambda m, s, *a: scoring * len(s))
        self.costs(run, "choose_line", lambda truths, *a: 2 * scoring * len(truths))

    def costs(self, owner: object, name: str, seconds: Callable[..., float]) -> None:
        real = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.now += seconds(*arguments, **named)
            return real(*arguments, **named)

        self.patch.setattr(owner, name, timed)


def records(found: TrainingRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(found.folder) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("budget", "predicting", "scoring"), [(60, 0.5, 0.2), (60, 1.0, 6.0), (180, 3.0, 0.5), (600, 1.0, 6.0)]
)
def test_all_that_is_done_is_within_the_budget(
    budget: float, predicting: float, scoring: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, predicting, scoring)
    found = tilesegment.train(data, tmp_path / "run", budget=budget, **TOY)
    took = clock.now - 1000
    assert 0.75 * budget < took <= budget
    assert found.wall_seconds == pytest.approx(took)
    rates = [record["rate"] for record in records(found)]
    assert rates[0] < 0.2 * max(rates), "the schedule begins at its beginning"
    assert rates[-1] < 0.3 * max(rates), "and reaches its end"
    assert found.scores is not None


def test_what_is_useful_but_not_needed_is_left_out_where_it_would_take_too_long(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a budget that is hardly enough for the scores: the looks, and the scores of the 8 views."""
    Clock(monkeypatch, 6.0, 2.0)
    short = tilesegment.train(data, tmp_path / "short", budget=70, **TOY)
    assert short.tta is None and short.scores is not None
    assert any("--tta" in words for words in short.left_out)
    assert not any(record["scores"] for record in records(short))
    assert (tmp_path / "short" / "report.html").exists()
    long = tilesegment.train(data, tmp_path / "long", budget=700, **TOY)
    assert long.tta is not None and long.left_out == ()
    assert sum(record["scores"] is not None for record in records(long)) == 6


def test_both_parts_of_a_stopped_run_are_within_the_budget(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data are read twice; time from before the call counts."""
    clock = Clock(monkeypatch, 0.5, 0.2)

    def stop(record: Record) -> None:
        if record.seconds > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tilesegment.train(data, tmp_path / "run", budget=90, report=stop, since=clock.now - 10, **TOY)
    clock.now += 5000
    tilesegment.train(data, tmp_path / "run", resume=True)
    assert 60 < clock.now - 6000 + 10 <= 90


def test_a_budget_that_is_used_up_before_it_begins_still_makes_a_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, 5.0, 2.0)
    found = tilesegment.train(data, tmp_path / "run", budget=9, **TOY)
    assert (found.steps, found.line) == (1, None)
    assert found.scores is not None


def test_counted_steps_know_no_budget() -> None:
    budget = Budget(None, predicting=1e6, scoring=1e6)
    assert (budget.looks, budget.scores_views) == (6, True)
