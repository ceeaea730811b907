"""A training run: a data set in, a folder with the model and what is known of it out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from tilesegment.errors import DataError
from tilesegment.model import Model
from tilesegment.plan import check_names
from tilesegment.training.curves import draw_curves
from tilesegment.training.data import open_dataset
from tilesegment.training.loop import Record, Trainer, TrainingSettings
from tilesegment.training.validation import Scores, validate


@dataclass(frozen=True)
class TrainingRun:
    """What a run made.

    Attributes:
        folder: holds `model.safetensors`, `metrics.jsonl` and `curves.png`.
        model: the model's file.
        steps, seconds: how long it trained.
        scores: of the stored model on the held-out sections; None where none were held out.
    """

    folder: str
    model: str
    steps: int
    seconds: float
    scores: Scores | None


def train(
    data: str | Path,
    out: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    begin: Callable[[Trainer, Path], None] = lambda trainer, folder: None,
    report: Callable[[Record], None] = lambda record: None,
    **settings: Any,
) -> TrainingRun:
    """Trains a U-Net on a folder of labelled images.

    The model file is renewed, atomically, whenever the held-out sections are looked at, and on Ctrl-C. Its weights are
    stored in float16; the scores at the end are those of the stored weights.

    Args:
        data: folder with `images/` and `labels/`, files paired by their stems.
        out: folder of the run; None is a new one, `runs/NAME`, `runs/NAME-2`, ...
        classes: names, in the order of the values in the labels.
        overwrite: replace the files of an earlier run in `out`; its model stays until there is a new one.
        begin: called with the trainer and the run's folder once the data are read and checked.
        report: called after every update.
        settings: the fields of `TrainingSettings`: budget, steps, base, depth, tile, rate, validation, seed, ...

    Raises:
        TilesegmentError: data, settings or folder that cannot be; an earlier run is not touched.
    """
    check_names(settings, TrainingSettings.__dataclass_fields__)
    folder = _check_folder(Path(data), out, overwrite)
    name = settings.pop("name", "") or folder.resolve().name
    trainer = Trainer(open_dataset(data, classes), TrainingSettings(name=name, **settings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begin(trainer, folder)
        return _run(trainer, folder, report)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}); choose another folder with out") from error


def _run(trainer: Trainer, folder: Path, report: Callable[[Record], None]) -> TrainingRun:
    records: list[Record] = []
    path = folder / "model.safetensors"
    try:
        with (folder / "metrics.jsonl").open("w") as metrics:
            for record in trainer.run():
                records.append(record)
                metrics.write(json.dumps(asdict(record)) + "\n")
                if record.scores is not None:
                    metrics.flush()
                    trainer.model().save(path, half=True)
                report(record)
    except KeyboardInterrupt:
        if records:
            trainer.model().save(path, half=True)
            draw_curves(records, folder / "curves.png")
        raise
    model, scores = trainer.model().save(path, half=True), None
    if trainer.held_out:
        scores = validate(model, trainer.held_out, trainer.device, trainer.settings.tile)
        header = replace(model.header, training={**model.header.training, "scores": asdict(scores)})
        Model(header, model.network).save(path, half=True)
    draw_curves(records, folder / "curves.png")
    return TrainingRun(str(folder), str(path), records[-1].step, records[-1].seconds, scores)


def _check_folder(data: Path, out: str | Path | None, overwrite: bool) -> Path:
    """Where the run goes; nothing is created yet."""
    if out is None:
        name = data.resolve().name
        names = (name if n == 1 else f"{name}-{n}" for n in count(1))
        return next(folder for folder in (Path("runs") / name for name in names) if not folder.exists())
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the run")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise DataError(f"{folder} exists and is not empty; choose another folder, or overwrite the run in it")
    return folder
