"""A training run: from a data set to a folder with the model and its report."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from tilesegment.errors import DataError, PlanError
from tilesegment.masks.target import absolute
from tilesegment.models.model import Model
from tilesegment.networks.any_network import MODULE
from tilesegment.signals import uninterrupted
from tilesegment.training.budget import seconds_of
from tilesegment.training.cores import Cores, choose_cores, with_cores
from tilesegment.training.data import open_dataset, summary
from tilesegment.training.folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    MODEL,
    REPORT,
    Configuration,
    configure,
    find_folder,
    read_records,
)
from tilesegment.training.keywords import TrainingKeywords
from tilesegment.training.line import Line, choose_line, recentred
from tilesegment.training.loop import Record, Trainer
from tilesegment.training.normalisation import of_scaled
from tilesegment.training.pictures import draw_curves, draw_examples, draw_samples, worst_first
from tilesegment.training.report import event_writer, write_report
from tilesegment.training.validation import Scores, predict_sections, validate

# how labels are read
_HOW = ("classes", "ignore", "instances", "invert", "labels", "sparse", "brush")
_EVERY_WRITES = 50  # least time between two checkpoints, in units of the duration of the last one
_SHEET = 12  # examples on the contact sheet
# time of pictures and report at the end: in units of that sheet's, or in seconds if it is not drawn
_PICTURE_SETS, _PICTURES = 2.0, 5.0


@dataclass(frozen=True)
class TrainingRun:
    """The result of a run.

    Attributes:
        folder: holds `model.safetensors`, `report.html`, `metrics.jsonl`, `config.json` and the pictures.
        model: the model's file.
        steps, seconds: length of the training, including looks at the held-out sections.
        wall_seconds: duration of the whole call.
        kept_step: the update whose weights the model has: the best on the held-out sections, or the last.
        scores: of the stored model on the held-out sections; None if none were held out.
        tta: the same, averaged over the 8 symmetries of the square; also None if the budget left no time.
        line: the line between two classes with its scores, if chosen on the held-out sections.
        cores: what makes an object, if chosen on them.
        left_out: what the budget left no time for, in words.
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
    cores: Cores | None = None
    left_out: tuple[str, ...] = ()


def train(
    data: str | Path,
    out: str | Path | None = None,
    *,
    network: str | nn.Module | None = None,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool | None = None,
    invert: bool | None = None,
    labels: str | Path | None = None,
    sparse: bool = False,
    brush: float | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    since: float | None = None,
    checkpoint_every: float = 60.0,
    begin: Callable[[Trainer, Path], None] = lambda trainer, folder: None,
    report: Callable[[Record], None] = lambda record: None,
    **settings: Unpack[TrainingKeywords],
) -> TrainingRun:
    """Train a network on labelled images. The model is the best of six looks at the held-out sections, in float16.

    Args:
        data: folder of labelled images, in one of the layouts of `training.data`; with `labels` an image, or a folder
            of images; or a list of images and labels, a CSV.
        out: folder of the run; None is a new one, `runs/NAME`, `runs/NAME-2`, ..., with `resume` the last of them.
        network: a name in `networks.NETWORKS`, or any module (B, C, H, W) -> (B, K, h, w): see `models.any_module`. Its
            model is loaded by `Model.load(path, network=module)`; give the module again to resume a run.
        classes, ignore, instances, invert: how to read the labels, see `open_dataset`.
        labels, sparse, brush: what was drawn on `data`, if only that counts, see `open_dataset`.
        preset: a name in `settings.PRESETS`, to start from its settings.
        config: the `config.json` of another run, to start from its settings instead.
        overwrite: replace the files of an earlier run in `out`; its model stays until there is a new one.
        resume: continue the run in `out` from its last checkpoint; if there is none, begin.
        tensorboard: folder for TensorBoard's event files.
        since: value of `time.monotonic()` from which the budget counts; None is the time of the call.
        checkpoint_every: seconds between checkpoints, or more if they take long; 0 is after every update.
        begin, report: called once the data are read and checked, and after every update.
        settings: the fields of `TrainingSettings` and of its `Augmentation`: budget (seconds, or "20m"), steps, base,
            elastic_sigma, ...

    Raises:
        TilesegmentError: invalid data, settings or folder; an earlier run is not touched.
    """
    start = time.monotonic() if since is None else since
    how: dict[str, Any] = {
        "classes": classes,
        "ignore": ignore,
        "instances": instances,
        "invert": invert,
        "labels": labels,
    }
    how |= {"sparse": sparse, "brush": brush, "preset": preset, "config": config, "network": network}
    run, began = _opened(data, out, start, overwrite, resume, how, settings)
    with _writing(run.folder), event_writer(tensorboard) as events:
        run.prepare(resume=began)
        begin(run.trainer, run.folder)
        return run.go((events, report), checkpoint_every)


def look_ahead(
    data: str | Path, out: str | Path | None = None, *, overwrite: bool = False, resume: bool = False, **given: Any
) -> tuple[Trainer, Path]:
    """Read and check the data, choose as `train` would, and write nothing: return the trainer, and the run's folder.

    Args:
        data, out, overwrite, resume: as for `train`.
        given: what else `train` takes: how labels are read, a preset or config, and settings.

    Raises:
        TilesegmentError: as `train` does.
    """
    how = {name: given.pop(name, None) for name in (*_HOW, "preset", "config", "network")}
    run, _ = _opened(data, out, time.monotonic(), overwrite, resume, how, given)
    return run.trainer, run.folder


def _opened(
    data: str | Path,
    out: str | Path | None,
    start: float,
    overwrite: bool,
    resume: bool,
    how: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> "tuple[_Run, bool]":
    """Open the run of some data, without writing; also return whether it was begun before."""
    if resume and overwrite:
        raise PlanError("--resume and --overwrite exclude each other; give one of them")
    folder = find_folder(Path(data), out, overwrite, resume)
    began = Configuration.read(folder / CONFIG) if resume and (folder / CONFIG).exists() else None
    classes, labels, network = how["classes"], how["labels"], how["network"]
    read = {name: how[name] for name in _HOW} | {"classes": classes and list(classes)}
    read |= {"labels": None if labels is None else str(absolute(labels)), "sparse": how["sparse"] or None}
    module = network if isinstance(network, nn.Module) else None
    chosen = _plain(settings) | ({} if network is None else {"network": network if module is None else MODULE})
    run = _Run(Path(data), folder, configure(began, how["preset"], how["config"], read, chosen), start, module)
    if began is not None and began.data_sha256 != run.chosen.data_sha256:
        raise DataError(f"{data} is not what {folder} was trained on; start anew with another --out")
    return run, began is not None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = error.strerror or error
        raise DataError(f"{folder} cannot be written ({words}); make room, or choose another with --out") from error


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the budget in seconds."""
    budget = settings.get("budget")
    return {**settings, **({"budget": seconds_of(budget)} if isinstance(budget, str) else {})}


class _Run:
    """The files of a run while it goes on."""

    def __init__(self, data: Path, folder: Path, chosen: Configuration, start: float, module: nn.Module | None) -> None:
        chosen.settings.check()  # before the data are read
        mpp, source_mpp = chosen.settings.mpp, chosen.settings.source_mpp
        dataset = open_dataset(data, **chosen.labels, mpp=mpp, source_mpp=source_mpp)
        chosen = chosen.of_data(data, dataset, folder)
        self.folder, self.start, self.trainer = folder, start, Trainer(dataset, chosen.settings, module)
        # with the choices made for this machine, so that the run is the same on another
        self.chosen = replace(chosen, settings=self.trainer.settings)
        self.records: list[Record] = []
        self.line: Line | None = None
        self.cores: Cores | None = None

    def prepare(self, *, resume: bool) -> None:
        """Restore the checkpoint, or write the files that precede the first update."""
        folder, trainer = self.folder, self.trainer
        folder.mkdir(parents=True, exist_ok=True)
        trainer.estimate()
        if resume and (folder / CHECKPOINT).exists():  # a run stopped before its first checkpoint starts again
            trainer.budget.drawing = _PICTURES
            trainer.restore(folder / CHECKPOINT)
        else:  # an earlier run's model stays until there is a new one
            for name in (CHECKPOINT, METRICS, REPORT, "samples.png"):
                (folder / name).unlink(missing_ok=True)
            self.chosen.write(folder)
            begun = time.monotonic()
            drawn = [(x[0].numpy(), t[0].numpy()) for x, t, _ in map(trainer.examples.__getitem__, range(_SHEET))]
            scale = of_scaled(trainer.normalisation)
            draw_examples(drawn, scale, trainer.data.classes, folder / "augmentation.png")
            trainer.budget.drawing = _PICTURE_SETS * (time.monotonic() - begun)
        trainer.budget.preparing += time.monotonic() - self.start
        self.records = list(read_records(folder, trainer.step))

    def go(self, reports: Sequence[Callable[[Record], None]], every: float) -> TrainingRun:
        """Train to the end, with a checkpoint every `every` seconds; call each of `reports` with every record."""
        try:
            self._train(reports, every)
        except KeyboardInterrupt:
            if self.trainer.can_be_kept:  # else the previous checkpoint stays
                self.trainer.save(self.folder / CHECKPOINT)
                self.trainer.model().save(self.folder / MODEL, half=True)
                self._draw_curves()
            raise
        return self._finish()

    def _train(self, reports: Sequence[Callable[[Record], None]], every: float) -> None:
        # drop records after the checkpoint: these updates are trained again
        with (self.folder / METRICS).open("w", buffering=1) as metrics:
            metrics.writelines(json.dumps(asdict(record)) + "\n" for record in self.records)
            last, took = time.monotonic(), 0.0
            for record in self.trainer.run():
                with uninterrupted():
                    self.records.append(record)
                    metrics.write(json.dumps(asdict(record)) + "\n")
                looked = record.scores is not None
                due = time.monotonic() - last > max(every, _EVERY_WRITES * took) or every == 0
                if looked or record.progress >= 1 or due:
                    start = time.monotonic()
                    self.trainer.save(self.folder / CHECKPOINT)
                    last = time.monotonic()
                    took = last - start
                if looked:
                    self.trainer.model().save(self.folder / MODEL, half=True)
                for report in reports:
                    report(record)

    def _finish(self) -> TrainingRun:
        """Write the model, its scores and its pictures; then the checkpoint is no longer needed."""
        trainer, path = self.trainer, self.folder / MODEL
        model = self._calibrated(trainer.model()).save(path, half=True)
        found: dict[str, Scores | None] = {"scores": None, "tta": None}
        if trainer.held_out:
            where = (trainer.held_out, trainer.device, trainer.precision, trainer.goal)
            one = validate(model, *where)
            training = {**model.header.training, "scores": asdict(one.scores)}
            found["scores"] = one.scores
            if trainer.budget.scores_views:
                found["tta"] = tta = validate(model, *where, tta=True).scores
                training["scores_tta"] = asdict(tta)
            Model(replace(model.header, training=training), model.network).save(path, half=True)
            order = worst_first(one.scores)
            order = order if len(order) <= 4 else [*order[:2], *order[-2:]]  # the two worst and the two best
            title = "Held-out images" + (", the worst first" if len(order) > 1 else "")
            draw_samples(trainer.held_out, one, order, trainer.data.classes, self.folder / "samples.png", title)
        self._draw_curves()
        command = f"tileseg predict IMAGE --model {shlex.quote(str(path))} --out mask.zarr"
        if trainer.start.name == MODULE:
            command = f'tilesegment.predict("IMAGE", "mask.zarr", tilesegment.Model.load("{path}", network=module))'
        write_report(
            self.folder,
            title=trainer.settings.name,
            classes=trainer.data.classes,
            summary=summary(trainer.data, trainer.held_out),
            settings=self.chosen.to_json(),
            records=self.records,
            line=self.line,
            cores=self.cores,
            command=command,
            **found,
        )
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return TrainingRun(
            folder=str(self.folder),
            model=str(path),
            steps=self.records[-1].step,
            seconds=self.records[-1].seconds,
            wall_seconds=time.monotonic() - self.start,
            kept_step=trainer.kept_step,
            line=self.line,
            cores=self.cores,
            left_out=trainer.budget.left_out,
            **found,
        )

    def _calibrated(self, model: Model) -> Model:
        """The model with what the held-out sections tell, or the threshold that was given, in its last layer."""
        trainer, threshold = self.trainer, self.trainer.settings.threshold
        if trainer.data.instances and trainer.budget.calibrates:
            p = predict_sections(model, trainer.held_out, trainer.device, trainer.precision)
            self.cores = choose_cores(trainer.held_out, p, model.header.classes)
            record = {**model.header.training, "cores": asdict(self.cores)}
            return with_cores(Model(replace(model.header, training=record), model.network), self.cores)
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
