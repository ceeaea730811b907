"""Runs of a toy network, for the tests of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tilesegment
from tilesegment.models.model import Model
from tilesegment.training import TrainingRun
from tilesegment.training.loop import Record

TOY: dict[str, Any] = {"base": 4, "depth": 2, "tile": 72, "dropout": 0.0, "precision": "fp32"}


def toy_run(data: Path, out: Path, **settings: Any) -> TrainingRun:
    return tilesegment.train(data, out, **{**TOY, "steps": 3, **settings})


def weights(model: str | Path) -> dict[str, torch.Tensor]:
    return Model.load(model).network.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(step: int) -> Callable[[Record], None]:
    def report(record: Record) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    return report
