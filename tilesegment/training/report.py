"""The report of a training run, one self-contained HTML file; and its curves for TensorBoard."""

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from tilesegment.errors import DataError, PlanError
from tilesegment.files import write_atomically
from tilesegment.metadata import LabelClass
from tilesegment.training.cores import Cores
from tilesegment.training.line import Line
from tilesegment.training.loop import Record
from tilesegment.training.pictures import goal_name
from tilesegment.training.settings import GOAL_NAMES
from tilesegment.training.validation import Scores

_LARGEST_PNG = 1_000_000  # bytes; larger pictures go into the report as JPEG
_MOST_IMAGES = 20  # rows of the table of held-out images
_CAPTIONS = {
    "curves": ("Curves", "Loss, scores on the held-out images, and learning rate over the steps."),
    "samples": ("Held-out images", "The worst and the best of the images that were not trained on."),
    "augmentation": ("Training examples", "What the network is shown: varied anew in every step."),
}


def write_report(
    folder: Path,
    *,
    title: str,
    classes: Sequence[LabelClass],
    summary: str,
    settings: Mapping[str, Any],
    records: Sequence[Record],
    scores: Scores | None,
    tta: Scores | None = None,
    line: Line | None = None,
    cores: Cores | None = None,
    command: str,
) -> Path:
    """Write `report.html`, one file without scripts or links, atomically; return its path.

    Args:
        folder: of the run; its `curves.png`, `samples.png` and `augmentation.png` are included if they exist.
        title, classes: of the model.
        summary, settings, records, scores, tta, line, cores: of the run, see `run.TrainingRun`.
        command: line that uses the model.

    Raises:
        OSError: a picture cannot be read, or the report cannot be written.
    """
    html = _template().render(
        title=title,
        length=_length(records),
        runs=[one for one in (scores, tta) if one is not None],
        goal=None if scores is None else goal_name(scores.goal, classes),
        worst=[] if scores is None else sorted(scores.sections, key=lambda pair: pair[1])[:_MOST_IMAGES],
        classes=classes,
        line=cores_words(cores) if cores is not None else None if line is None else line_words(line),
        command=command,
        figures=[
            _figure(folder / f"{name}.png", *words)
            for name, words in _CAPTIONS.items()
            if (folder / f"{name}.png").exists()
        ],
        summary=summary,
        settings=_flat(settings),
    )
    path = folder / "report.html"
    write_atomically(path, html.encode("utf-8", "replace"))  # file names may not be valid UTF-8
    return path


def line_words(line: Line) -> str:
    """Describe the line between two classes: where it is, which score it serves, and the scores there."""
    name = GOAL_NAMES[line.goal]
    here = f"{name} {line.value:.3f}, accuracy {line.accuracy:.3f}"
    if line.threshold == 0.5:
        return f"The line between the classes is at 0.5: no other has a better {name} ({here})."
    at_half = f"{name} {line.value_half:.3f}, accuracy {line.accuracy_half:.3f}"
    return (
        f"The line between the classes is at {line.threshold:.3f}, for {name}: {here}; at 0.5 {at_half} "
        "(--threshold 0.5 keeps that)."
    )


def cores_words(cores: Cores) -> str:
    """Describe what makes an object, and what it gains."""
    if not (cores.bias or cores.min_area):
        return "Every core makes an object: no other choice finds the held-out objects better."
    odds = f"odds of a core times {math.exp(cores.bias):.2g}, " if cores.bias else ""
    small = f"objects of fewer than {cores.min_area} px left out, " if cores.min_area else ""
    return f"Chosen on the held-out images: {odds}{small}for a PQ of {cores.pq:.3f} instead of {cores.pq_before:.3f}."


@contextmanager
def event_writer(folder: str | Path | None) -> Iterator[Callable[[Record], None]]:
    """Yield a function that writes a record for TensorBoard, or does nothing if `folder` is None.

    Raises:
        PlanError: TensorBoard is not installed.
        DataError: the folder cannot be written.
    """
    if folder is None:
        yield lambda record: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PlanError("tensorboard is not installed; pip install 'tilesegment[tensorboard]'") from None
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}); choose another --tensorboard") from error

    def write(record: Record) -> None:
        values = {"loss": record.loss, "rate": record.rate}
        if record.scores is not None:
            names = ("value", "accuracy", "miou", "v_rand", "v_info", "f1", "ap", "pq", "aji")
            values |= {f"held out/{name}": getattr(record.scores, name) for name in names}
        for name, value in values.items():
            if value is not None:
                writer.add_scalar(name, value, record.step)

    with writer:
        yield write


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    return environment.from_string(Path(__file__).with_name("report.html").read_text())


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.3f}"


def _length(records: Sequence[Record]) -> str:
    if not records:
        return "not a single step was made"
    last = records[-1]
    minutes, seconds = divmod(round(last.seconds), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"{last.step:,} step{'s' if last.step > 1 else ''} in {took}, last loss {last.loss:.3f}"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of every setting as text; nested names are joined by dots."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(map(str, value))
        else:
            yield f"{above}{name}", "not given" if value is None or value == "" else str(value)


def _figure(path: Path, heading: str, caption: str) -> dict[str, Any]:
    """A picture for the template."""
    data, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        if len(data) > _LARGEST_PNG:
            stream = io.BytesIO()
            picture.convert("RGB").save(stream, "JPEG", quality=88, optimize=True)
            data, kind = stream.getvalue(), "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"heading": heading, "caption": caption, "source": source, "width": width, "height": height}
