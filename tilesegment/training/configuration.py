"""Where a run's files lie, and what it is begun with: `config.json`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from tilesegment.errors import DataError, FinishedError, PlanError, option
from tilesegment.files import write_atomically
from tilesegment.models import CHECKPOINT, TRAINED
from tilesegment.prediction.settings import check_names
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.data import Dataset
from tilesegment.training.settings import PRESETS, TrainingSettings

MODEL, CONFIG, METRICS = TRAINED, "config.json", "metrics.jsonl"
REPORT = "report.html"  # the last file of a run: with it, it is finished
# what may change when a run is resumed: where it is computed, not what
_FREE = ("device", "workers")


@dataclass(frozen=True)
class Configuration:
    """What a run is begun with.

    Attributes:
        settings: of the training.
        labels: how the labels are read: `classes`, `ignore`, `instances` and `invert` of `open_dataset`, where given.
        data: folder of the data.
        data_sha256: of names, pixels and labels.
    """

    settings: TrainingSettings
    labels: Mapping[str, Any]
    data: str = ""
    data_sha256: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote.

        Raises:
            DataError: no such file, or not one of ours.
        """
        try:
            found = json.loads(path.read_text())
            settings = TrainingSettings.from_json(found["settings"])
            _check_types(settings)
            _check_types(settings.augmentation)
            labels = dict(found["labels"])
            check_names(labels, ("classes", "ignore", "instances", "invert"))
            return cls(settings, labels, str(found["data"]), str(found["data_sha256"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, AssertionError) as error:
            raise DataError(f"{path} cannot be read as the config.json of a run ({error!r:.200})") from error

    def write(self, path: Path) -> None:
        """Writes it to `path`, atomically.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(path, (json.dumps(self.to_json(), indent=2) + "\n").encode())

    def to_json(self) -> dict[str, Any]:
        """All of it, and the release that it was written by."""
        more = {"labels": dict(self.labels), "data": self.data, "data_sha256": self.data_sha256}
        return {**more, "settings": self.settings.to_json(), "tilesegment": version("tilesegment")}

    def named(self, name: str) -> Self:
        """The same, its model called `name` if it has no name yet."""
        return self if self.settings.name else replace(self, settings=replace(self.settings, name=name))

    def of_data(self, folder: Path, data: Dataset) -> Self:
        """The same, of these data."""
        digest = hashlib.sha256()
        for section in data.sections:
            digest.update(f"{section.name} {section.image.dtype} {section.image.shape}\n".encode())
            digest.update(section.image.tobytes())
            digest.update(section.label.tobytes())
        return replace(self, data=str(folder.resolve()), data_sha256=digest.hexdigest())


def begin_with(
    preset: str | None, config: str | Path | None, labels: Mapping[str, Any], settings: Mapping[str, Any]
) -> Configuration:
    """Of a new run: what is given, for the rest a preset, another run's or the defaults.

    Raises:
        PlanError: preset and config are both given, no such preset, no such setting.
        DataError: config cannot be read.
    """
    labels, settings = _given(preset, config, labels, settings)
    return Configuration(TrainingSettings.from_json(settings), labels)


def _given(
    preset: str | None, config: str | Path | None, labels: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Labels and settings that are given, by a preset, by the configuration of another run, or by themselves."""
    if preset is not None and config is not None:
        raise PlanError("--preset and --config exclude each other; give one of them")
    if preset is not None and preset not in PRESETS:
        raise PlanError(f"no preset is called {preset!r}; there are: {', '.join(PRESETS)}")
    start: Mapping[str, Any] = PRESETS[preset] if preset is not None else {}
    if config is not None:
        other = Configuration.read(Path(config))
        # a new run has a name of its own
        start, labels = other.settings.to_json(), {**other.labels, **labels}
        del start["name"]
    return dict(labels), {**start, **settings}


def go_on_with(
    folder: Path,
    preset: str | None,
    config: str | Path | None,
    labels: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Configuration:
    """Of the run in `folder`, computed where `settings` say.

    Raises:
        DataError: it cannot be read.
        PlanError: something else is given than it was begun with; names the first difference.
    """
    labels, settings = _given(preset, config, labels, settings)
    began = Configuration.read(folder / CONFIG)
    wanted = replace(began, settings=TrainingSettings.from_json({**began.settings.to_json(), **settings}))
    wanted = replace(wanted, labels={**began.labels, **labels})
    old, new = ({**one.labels, **_flat(one.settings)} for one in (began, wanted))
    for key, value in new.items():
        if key not in _FREE and old.get(key) != value:
            was = f"{folder} was begun with {option(key)} {old.get(key)}, not {value}"
            raise PlanError(f"{was}; leave it out, or train anew elsewhere")
    return wanted


def find_folder(data: Path, out: str | Path | None, overwrite: bool, resume: bool) -> Path:
    """Where a run goes, or lies; nothing is created yet.

    Raises:
        DataError: it exists and is not to be overwritten, or is a file; `FinishedError`, its run came to its end.
    """
    if out is None:
        runs = _runs(data.resolve().name)
        folder = runs[-2] if resume and len(runs) > 1 else runs[-1]
    else:
        folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the run")
    if resume and (folder / CONFIG).exists():
        if _is_finished(folder):
            raise FinishedError(
                f"the run in {folder} is finished; there is nothing to resume (go on from it with --init)"
            )
    elif not overwrite and folder.is_dir() and any(path for path in folder.iterdir() if not _is_left_over(path)):
        what = "it holds no run to resume" if resume else "go on with --resume, replace it with --overwrite"
        raise DataError(f"{folder} exists and is not empty; {what}, or choose another with --out")
    return folder


def _is_finished(folder: Path) -> bool:
    """Whether the run in `folder` came to its end, and not only the one before that it was to replace."""
    if (folder / CHECKPOINT).exists() or not (folder / MODEL).exists():
        return False
    if (folder / REPORT).exists():
        return True
    try:
        return bool(json.loads((folder / METRICS).read_text().splitlines()[-1])["progress"] >= 1)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _is_left_over(path: Path) -> bool:
    """Whether it is the first file of a run that was killed while writing it."""
    return path.name.startswith(f".{CONFIG}.")


def _runs(name: str) -> Sequence[Path]:
    """The runs of this name that exist, oldest first, and the next one that does not."""
    runs = []
    for number in count(1):
        runs.append(Path("runs") / (name if number == 1 else f"{name}-{number}"))
        if not runs[-1].exists():
            break
    return runs


def _check_types(settings: TrainingSettings | Augmentation) -> None:
    """JSON holds anything anywhere.

    Raises:
        TypeError: a value is of another type than its field.
    """
    for key, hint in get_type_hints(type(settings)).items():
        kinds = [get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
        value = getattr(settings, key)
        if not isinstance(value, (*kinds, int) if float in kinds else tuple(kinds)):
            raise TypeError(f"{key} is {value!r}")


def _flat(settings: TrainingSettings) -> dict[str, Any]:
    """All settings and those of the augmentation, by their names."""
    given = settings.to_json()
    return {**given.pop("augmentation"), **given}
