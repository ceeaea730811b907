"""The folder of a run: where it lies, its files, and its configuration, `config.json`."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from tilesegment.errors import DataError, FinishedError, PlanError, option
from tilesegment.files import write_atomically
from tilesegment.labels.files import stem_of
from tilesegment.models import CHECKPOINT, TRAINED
from tilesegment.prediction.settings import check_names
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.data import Dataset
from tilesegment.training.loop import Record
from tilesegment.training.settings import PRESETS, TrainingSettings
from tilesegment.training.validation import Scores

MODEL, CONFIG, METRICS = TRAINED, "config.json", "metrics.jsonl"
REPORT = "report.html"  # the last file of a run, which marks it as finished
_LABELS = ("classes", "ignore", "instances", "invert", "labels", "sparse", "brush")  # of `open_dataset`
_FREE = ("device", "workers")  # may change when a run is resumed: where to compute, not what


@dataclass(frozen=True)
class Configuration:
    """The configuration that a run begins with.

    Attributes:
        settings: of the training.
        labels: how to read the labels: `_LABELS` of `open_dataset`, if given.
        data: folder of the data, or image.
        data_sha256: SHA-256 of names, pixels and labels.
    """

    settings: TrainingSettings
    labels: Mapping[str, Any]
    data: str = ""
    data_sha256: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            DataError: no such file, or not a configuration.
        """
        try:
            found = json.loads(path.read_text())
            settings = TrainingSettings.from_json(found["settings"])
            _check_types(settings)
            _check_types(settings.augmentation)
            labels = dict(found["labels"])
            check_names(labels, _LABELS)
            return cls(settings, labels, str(found["data"]), str(found["data_sha256"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, AssertionError) as error:
            raise DataError(f"{path} cannot be read as the config.json of a run ({error!r:.200})") from error

    def to_json(self) -> dict[str, Any]:
        """Return the configuration, and the release that writes it."""
        more = {"labels": dict(self.labels), "data": self.data, "data_sha256": self.data_sha256}
        return {**more, "settings": self.settings.to_json(), "tilesegment": version("tilesegment")}

    def write(self, folder: Path) -> None:
        """Write `config.json`, atomically."""
        write_atomically(folder / CONFIG, (json.dumps(self.to_json(), indent=2) + "\n").encode())

    def of_data(self, path: Path, data: Dataset, folder: Path) -> Self:
        """Return the configuration for the data in `path`; a model without a name gets that of the run's `folder`."""
        digest = hashlib.sha256()
        for section in data.sections:
            digest.update(f"{section.name} {section.image.dtype} {section.image.shape}\n".encode())
            digest.update(section.image.tobytes())
            digest.update(section.label.tobytes())
            digest.update(b"" if section.objects is None else section.objects.tobytes())
        settings = replace(self.settings, name=self.settings.name or folder.resolve().name)
        return replace(self, settings=settings, data=str(path.resolve()), data_sha256=digest.hexdigest())


def configure(
    began: Configuration | None,
    preset: str | None,
    config: str | Path | None,
    labels: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Configuration:
    """Build a configuration from given values, and for the rest from a preset or the `config.json` of another run.

    Raises:
        PlanError: preset and config are both given, no such preset or setting, or a value differs from `began`, the
            configuration of a run to resume.
        DataError: `config` cannot be read.
    """
    labels = {key: value for key, value in labels.items() if value is not None}
    if preset is not None and config is not None:
        raise PlanError("--preset and --config exclude each other; give one of them")
    if preset is not None and preset not in PRESETS:
        raise PlanError(f"--preset is {preset!r}; allowed: {', '.join(PRESETS)}")
    if preset is not None:
        settings = {**PRESETS[preset], **settings}
    if config is not None:
        other = Configuration.read(Path(config))
        start = other.settings.to_json()
        del start["name"]  # a new run gets a new name
        how = {key: value for key, value in other.labels.items() if key not in ("labels", "sparse")}  # which, not how
        labels, settings = {**how, **labels}, {**start, **settings}
    if began is None:
        return Configuration(TrainingSettings.from_json(settings), labels)
    merged = TrainingSettings.from_json({**began.settings.to_json(), **settings})
    wanted = replace(began, settings=merged, labels={**began.labels, **labels})
    old, new = ({**one.labels, **one.settings.flat()} for one in (began, wanted))
    for key, value in new.items():
        if key not in _FREE and old.get(key) != value:
            was = f"the run was begun with {option(key)} {old.get(key)}, not {value}"
            raise PlanError(f"{was}; leave it out, or train anew elsewhere")
    return wanted


def find_folder(data: Path, out: str | Path | None, overwrite: bool, resume: bool) -> Path:
    """Return the folder of a new run, or of the run to resume, without creating it.

    Raises:
        DataError: it is a file, or exists and must not be overwritten.
        FinishedError: the run in it is finished.
    """
    name = stem_of(data.resolve()) if data.is_file() else data.resolve().name
    folder = _last_or_next(name, resume) if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the run")
    if resume and (folder / CONFIG).exists():
        if _is_finished(folder):
            raise FinishedError(
                f"the run in {folder} is finished; there is nothing to resume (go on from it with --init)"
            )
    elif (
        not overwrite and folder.is_dir() and any(not path.name.startswith(f".{CONFIG}.") for path in folder.iterdir())
    ):
        what = "it holds no run to resume" if resume else "go on with --resume, replace it with --overwrite"
        raise DataError(f"{folder} exists and is not empty; {what}, or choose another with --out")
    return folder


def _last_or_next(name: str, last: bool) -> Path:
    """The last existing one of `runs/NAME`, `runs/NAME-2`, ... if `last` and there is one; else the next one."""
    before = None
    for number in count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return before if last and before is not None else folder
        before = folder
    raise AssertionError("not reached")


def _is_finished(folder: Path) -> bool:
    """Whether the run in `folder` is finished, not only an earlier one that it replaces."""
    if (folder / CHECKPOINT).exists() or not (folder / MODEL).exists():
        return False
    if (folder / REPORT).exists():
        return True
    try:
        return bool(json.loads((folder / METRICS).read_text().splitlines()[-1])["progress"] >= 1)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def read_records(folder: Path, steps: int) -> Iterator[Record]:
    """Yield the first `steps` records of a run to resume."""
    if steps > 0 and (folder / METRICS).exists():
        for line in (folder / METRICS).read_text().splitlines()[:steps]:
            found = json.loads(line)
            scores = found.pop("scores")
            yield Record(**found, scores=None if scores is None else Scores.from_json(scores))


def _check_types(settings: TrainingSettings | Augmentation) -> None:
    """Raise TypeError if a value from JSON does not have the type of its field."""
    for key, hint in get_type_hints(type(settings)).items():
        kinds = [get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
        value = getattr(settings, key)
        if not isinstance(value, (*kinds, int) if float in kinds else tuple(kinds)):
            raise TypeError(f"{key} is {value!r}")
