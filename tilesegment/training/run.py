"""A training run: a data set in, a folder with the model and what is known of it out."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tilesegment.errors import DataError, PlanError
from tilesegment.models.model import Model
from tilesegment.signals import uninterrupted
from tilesegment.training.calibration import Line, choose_line, recentred
from tilesegment.training.configuration import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    MODEL,
    REPORT,
    Configuration,
    begin_with,
    find_folder,
    go_on_with,
)
from tilesegment.training.contact_sheet import draw_examples
from tilesegment.training.curves import draw_curves
from tilesegment.training.data import open_dataset, summary
from tilesegment.training.loop import Record, Trainer
from tilesegment.training.report import write_report
from tilesegment.training.samples import Sample, draw_samples
from tilesegment.training.settings import GOAL_NAMES
from tilesegment.training.tensorboard import event_writer
from tilesegment.training.validation import Scores, Validation, predict_sections, validate

# seconds between two checkpoints, and in units of the time that the last one took
_EVERY, _EVERY_WRITES = 60.0, 50
_SHEET = 12  # examples on the contact sheet
# what pictures and report at the end take, in units of that sheet, and where it is not drawn, in seconds
_PICTURE_SETS, _PICTURES = 2.0, 5.0


@dataclass(frozen=True)
class TrainingRun:
    """What a run made.

    Attributes:
        folder: holds `model.safetensors`, `report.html`, `metrics.jsonl`, `config.json` and the pictures.
        model: the model's file.
        steps, seconds: how long it trained, with the looks at the held-out sections.
        wall_seconds: what the call took as a whole.
        kept_step: after which update the weights were those of the model: where the held-out sections were predicted
            best, or at the end.
        scores: of the stored model on the held-out sections; None where none were held out.
        tta: the same, averaged over the 8 symmetries of the square; None, too, where a budget left no time for it.
        line: between two classes, where the held-out sections have chosen it, with the scores that belong to it.
        left_out: what a budget left no time for, in words.
    """

    folder: str
    model: str
    steps: int
    seconds: float
    wall_seconds: float
    kept_step: int
    scores: Scores | None
    tta: Scores | None
    line: Line | None
    left_out: tuple[str, ...] = ()


def train(
    data: str | Path,
    out: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool | None = None,
    invert: bool | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    since: float | None = None,
    begin: Callable[[Trainer, Path], None] = lambda trainer, folder: None,
    report: Callable[[Record], None] = lambda record: None,
    **settings: Any,
) -> TrainingRun:
    """Trains a U-Net on labelled images.

    The held-out sections are looked at six times; the weights that predict them best are those of the model. Its file
    is renewed, atomically, at each look, and on Ctrl-C; a checkpoint is written every minute. The model's weights are
    stored in float16; the scores at the end are those of the stored weights. Between two classes the line is drawn
    where it is best on the held-out sections, at 1/2 unless another place is really better: `calibration`.

    Args:
        data: folder of labelled images, in one of the layouts of `training.data`.
        out: folder of the run; None is a new one, `runs/NAME`, `runs/NAME-2`, ..., with `resume` the last of them.
        classes: names, in the order of the values in the labels.
        ignore: value of pixels without a label.
        instances: the labels are ids of single objects: learn background and object, see `labels.parted`.
        invert: images and labels that say that 0 is white (MINISWHITE) are turned so that 0 is black.
        preset: a name of `settings.PRESETS`, the start of the settings.
        config: the `config.json` of another run, the start of the settings instead.
        overwrite: replace the files of an earlier run in `out`; its model stays until there is a new one.
        resume: go on with the run in `out` from its last checkpoint; where nothing was begun, begin.
        tensorboard: folder for TensorBoard's event files.
        since: reading of `time.monotonic()` from which on a budget counts; None is the time of the call.
        begin: called with the trainer and the run's folder once the data are read and checked.
        report: called after every update.
        settings: the fields of `TrainingSettings` and of its `Augmentation`: budget, steps, base, elastic_sigma, ...

    Raises:
        TilesegmentError: data, settings or folder that cannot be; an earlier run is not touched.
    """
    start = time.monotonic() if since is None else since
    if resume and overwrite:
        raise PlanError("--resume and --overwrite exclude each other; give one of them")
    folder = find_folder(Path(data), out, overwrite, resume)
    given: dict[str, Any] = {"classes": None if classes is None else list(classes), "ignore": ignore}
    given |= {"instances": instances, "invert": invert}
    labels = {key: value for key, value in given.items() if value is not None}
    resume = resume and (folder / CONFIG).exists()
    starting = (preset, config, labels, settings)
    chosen = go_on_with(folder, *starting) if resume else begin_with(*starting)
    trainer, chosen = _prepare(Path(data), folder, chosen, resume)
    with _writing(folder), event_writer(tensorboard) as events:
        folder.mkdir(parents=True, exist_ok=True)
        trainer.estimate()
        # stopped before its first checkpoint, a run begins anew
        if resume and (folder / CHECKPOINT).exists():
            trainer.budget.drawing = _PICTURES
            trainer.restore(folder / CHECKPOINT)
        else:
            _begin(folder, trainer, chosen)
        begin(trainer, folder)
        return _Run(folder, trainer, chosen, start).go((events, report))


def _prepare(data: Path, folder: Path, chosen: Configuration, resume: bool) -> tuple[Trainer, Configuration]:
    """Read the data, and settle what depends on them and on this machine.

    Raises:
        DataError: they cannot be trained on, or are not those of the run that is resumed.
    """
    dataset = open_dataset(data, **chosen.labels)
    began, chosen = chosen, chosen.named(folder.resolve().name).of_data(data, dataset)
    if resume and began.data_sha256 != chosen.data_sha256:
        raise DataError(f"{data} is not what {folder} was trained on; start anew with another --out")
    trainer = Trainer(dataset, chosen.settings)
    # with what was chosen for this machine, so that the run is the same on another
    return trainer, replace(chosen, settings=trainer.settings)


class _Run:
    """The files of a run while it goes on."""

    def __init__(self, folder: Path, trainer: Trainer, chosen: Configuration, start: float) -> None:
        self.folder, self.trainer, self.chosen, self.start = folder, trainer, chosen, start
        trainer.budget.preparing += time.monotonic() - start
        self.records = _read_records(folder / METRICS, trainer.step)
        self.line: Line | None = None  # between two classes, where the held-out sections choose it

    def go(self, reports: Sequence[Callable[[Record], None]]) -> TrainingRun:
        """Trains to the end, with a checkpoint now and then; calls each of `reports` with every record."""
        try:
            self._train(reports)
        except KeyboardInterrupt:
            self._stop()
            raise
        return self._finish()

    def _train(self, reports: Sequence[Callable[[Record], None]]) -> None:
        # what was written after the checkpoint is trained once more
        with (self.folder / METRICS).open("w", buffering=1) as metrics:
            metrics.writelines(json.dumps(asdict(record)) + "\n" for record in self.records)
            last, took = time.monotonic(), 0.0
            for record in self.trainer.run():
                with uninterrupted():
                    self.records.append(record)
                    metrics.write(json.dumps(asdict(record)) + "\n")
                looked = record.scores is not None
                if looked or record.progress >= 1 or time.monotonic() - last > max(_EVERY, _EVERY_WRITES * took):
                    start = time.monotonic()
                    self.trainer.save(self.folder / CHECKPOINT)
                    last = time.monotonic()
                    took = last - start
                if looked:
                    self.trainer.model().save(self.folder / MODEL, half=True)
                for report in reports:
                    report(record)

    def _stop(self) -> None:
        """Keeps what was done; where that cannot be, the checkpoint before stays."""
        if self.trainer.can_be_kept:
            self.trainer.save(self.folder / CHECKPOINT)
            self.trainer.model().save(self.folder / MODEL, half=True)
            self._draw_curves()

    def _finish(self) -> TrainingRun:
        """The model, its scores and its pictures; then the checkpoint is no longer needed."""
        trainer, path = self.trainer, self.folder / MODEL
        model = self._calibrated(trainer.model()).save(path, half=True)
        one = tta = None
        if trainer.held_out:
            where = (trainer.held_out, trainer.device, trainer.precision, trainer.goal)
            one = validate(model, *where)
            tta = validate(model, *where, tta=True) if trainer.budget.scores_views else None
            scores = {"scores": asdict(one.scores)} | ({} if tta is None else {"scores_tta": asdict(tta.scores)})
            header = replace(model.header, training={**model.header.training, **scores})
            Model(header, model.network).save(path, half=True)
            self._draw_samples(one)
        self._draw_curves()
        found = {key: None if value is None else value.scores for key, value in (("scores", one), ("tta", tta))}
        self._report(found)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        last, took = self.records[-1], time.monotonic() - self.start
        return TrainingRun(
            folder=str(self.folder),
            model=str(path),
            steps=last.step,
            seconds=last.seconds,
            wall_seconds=took,
            kept_step=trainer.kept_step,
            line=self.line,
            left_out=trainer.budget.left_out,
            **found,
        )

    def _report(self, found: Mapping[str, Scores | None]) -> None:
        trainer = self.trainer
        write_report(
            self.folder,
            title=trainer.settings.name,
            classes=trainer.data.classes,
            summary=summary(trainer.data, trainer.held_out),
            settings=self.chosen.to_json(),
            records=self.records,
            scores=found["scores"],
            tta=found["tta"],
            line=self.line,
            command=f"tileseg predict IMAGE --model {shlex.quote(str(self.folder / MODEL))} --out mask.zarr",
            pictures=[self.folder / f"{name}.png" for name in ("curves", "samples", "augmentation")],
        )

    def _calibrated(self, model: Model) -> Model:
        """The model, of two classes, with its threshold put into it."""
        trainer, threshold = self.trainer, self.trainer.settings.threshold
        if len(trainer.data.classes) != 2:
            return model
        if trainer.budget.calibrates:
            p = predict_sections(model, trainer.held_out, trainer.device, trainer.precision)
            self.line = choose_line([section.label for section in trainer.held_out], p, trainer.goal)
            threshold = self.line.threshold
        if threshold is None:
            return model
        record = {**model.header.training, "threshold": threshold}
        if self.line is not None:
            record["line"] = asdict(self.line)
        return recentred(Model(replace(model.header, training=record), model.network), threshold)

    def _draw_curves(self) -> None:
        draw_curves(self.records, self.folder / "curves.png", self.trainer.settings.loss, self.trainer.data.classes)

    def _draw_samples(self, found: Validation) -> None:
        """The two worst and the two best held-out sections, worst first."""
        scores = found.scores
        order = sorted(range(len(scores.sections)), key=lambda n: scores.sections[n][1])
        what = GOAL_NAMES[scores.goal]
        samples = []
        for n in order if len(order) <= 4 else (*order[:2], *order[-2:]):
            section, (name, value) = self.trainer.held_out[n], scores.sections[n]
            samples.append(Sample(name, section.image, section.label, found.masks[n], value, what))
        draw_samples(samples, self.trainer.data.classes, self.folder / "samples.png")


def _begin(folder: Path, trainer: Trainer, chosen: Configuration) -> None:
    """What is known before the first update; an earlier run's model stays until there is a new one."""
    for name in (CHECKPOINT, METRICS, REPORT, "samples.png"):
        (folder / name).unlink(missing_ok=True)
    chosen.write(folder / CONFIG)
    start, drawn = time.monotonic(), []
    for step in range(_SHEET):
        x, t, _ = trainer.examples[step]
        drawn.append((x[0].numpy(), t[0].numpy()))
    draw_examples(drawn, trainer.normalisation, trainer.data.classes, folder / "augmentation.png")
    # the pictures at the end are of about this size
    trainer.budget.drawing = _PICTURE_SETS * (time.monotonic() - start)


def _read_records(path: Path, steps: int) -> list[Record]:
    """The first `steps` records of a run that goes on."""
    if steps == 0 or not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines()[:steps]:
        found = json.loads(line)
        if found["scores"] is not None:
            found["scores"] = Scores.from_json(found["scores"])
        records.append(Record(**found))
    return records


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = error.strerror or error
        raise DataError(f"{folder} cannot be written ({words}); make room, or choose another with --out") from error
