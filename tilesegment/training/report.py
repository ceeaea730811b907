"""The report of a training run: one HTML file that holds everything, to be read on any screen, printed or sent."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tilesegment.files import write_atomically
from tilesegment.metadata import LabelClass
from tilesegment.training.curves import goal_name
from tilesegment.training.settings import GOAL_NAMES

if TYPE_CHECKING:
    from tilesegment.training.calibration import Line
    from tilesegment.training.loop import Record
    from tilesegment.training.validation import Scores

_LARGEST_PNG = 1_000_000  # bytes; larger pictures go into the report as JPEG
_MOST_IMAGES = 20  # rows of the table of held-out images
_CAPTIONS = {
    "curves": ("Curves", "Loss, scores on the held-out images, and learning rate over the steps."),
    "samples": ("Held-out images", "The worst and the best of the images that were not trained on."),
    "augmentation": ("Training examples", "What the network is shown: varied anew in every step."),
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --line: #d9dee3; --page: #fff; --box: #f4f6f8;
  --mark: #08519c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b0; --line: #39424b; --page: #14181c;
  --box: #1e242a; --mark: #8ec5ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .6rem; font-size: 1.2rem; }
p { margin: .4rem 0; }
.soft, figcaption, th { color: var(--soft); font-weight: normal; font-size: .92rem; }
.headline { margin: 1.5rem 0; padding: 1rem 1.25rem; background: var(--box); border-left: 4px solid var(--mark); }
.headline strong { display: block; font-size: 1.7rem; line-height: 1.3; color: var(--mark); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; min-width: 22rem; }
th, td { padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
th, code { white-space: nowrap; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em; vertical-align: -.08em;
  border: 1px solid var(--soft); }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; margin: .5rem 0; background: #fff; }
pre { padding: .8rem 1rem; overflow-x: auto; background: var(--box); font: .85rem/1.45 ui-monospace, Menlo, monospace; }
@media (max-width: 40rem) { figure { overflow-x: auto; } img { max-width: none; width: 56rem; }
  th, td { padding-right: .8rem; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --box: #f4f6f8; --mark: #08519c; }
  body { max-width: none; padding: 0; font-size: 10.5pt; } figure, table, pre { break-inside: avoid; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; } img { max-width: 100%; width: auto; max-height: 23cm; } }
"""


def write_report(
    folder: Path,
    *,
    title: str,
    classes: Sequence[LabelClass],
    summary: str,
    settings: Mapping[str, Any],
    records: Sequence["Record"],
    scores: "Scores | None",
    tta: "Scores | None" = None,
    line: "Line | None" = None,
    command: str,
    pictures: Sequence[Path] = (),
) -> Path:
    """Writes `report.html`: one file without scripts or links, pictures included, replaced only when it is complete.

    Args:
        folder: of the run.
        title: the model's name.
        classes: of the model, as many as there are Dice and IoU values.
        summary: of the data, lines of plain text.
        settings: of the run, to be had again; a mapping among the values becomes rows of its own.
        records: of the run.
        scores: of the stored model on the held-out images; None where none were held out.
        tta: the same, averaged over the 8 symmetries of the square.
        line: between two classes, where the held-out images have chosen it.
        command: line that uses the model.
        pictures: files that are shown where they exist; `curves`, `samples` and `augmentation` get a caption.

    Returns:
        The file.

    Raises:
        OSError: a picture cannot be read, or the report not be written.
    """
    body = [
        f"<header><p class='soft'>tileseg training run</p><h1>{escape(title)}</h1>",
        f"<p class='soft'>{_length(records)}</p></header>",
        _headline(scores, tta, classes),
        *([] if line is None else [f"<p class='soft'>{escape(line_words(line))}</p>"]),
        _section("Use the model", f"<pre>{escape(command)}</pre>"),
        *([_section("Scores", _score_tables(scores, tta, classes))] if scores else []),
        *(_figure(path) for path in pictures if path.exists()),
        _section("Data", f"<pre>{escape(summary)}</pre>"),
        _section("Settings", _table((), [(escape(name), escape(value)) for name, value in _flat(settings)])),
    ]
    # nothing may be loaded from anywhere, whatever names the data had
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    html = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"
    path = folder / "report.html"
    write_atomically(path, html.encode("utf-8", "replace"))  # a file's name may hold what is no UTF-8
    return path


def line_words(line: "Line") -> str:
    """Where the line between two classes is, which score it serves, and the scores that belong to it."""
    name = GOAL_NAMES[line.goal]
    here = f"{name} {line.value:.3f}, accuracy {line.accuracy:.3f}"
    if line.threshold == 0.5:
        return f"The line between the classes is at 0.5: no other has a better {name} ({here})."
    at_half = f"{name} {line.value_half:.3f}, accuracy {line.accuracy_half:.3f}"
    return (
        f"The line between the classes is at {line.threshold:.3f}, for {name}: {here}; at 0.5 {at_half} "
        "(--threshold 0.5 keeps that)."
    )


def _length(records: Sequence["Record"]) -> str:
    if not records:
        return "not a single step was made"
    last = records[-1]
    minutes, seconds = divmod(round(last.seconds), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"{last.step:,} step{'s' if last.step > 1 else ''} in {took}, last loss {last.loss:.3f}"


def _headline(scores: "Scores | None", tta: "Scores | None", classes: Sequence[LabelClass]) -> str:
    """The main score in words, with what it takes to get without learning anything."""
    if scores is None:
        text = (
            "<strong>Not scored</strong><p>No images were held out, so how good the model is on others is unknown.</p>"
        )
        return f"<div class='headline'>{text}</div>"
    text = f"<strong>{escape(goal_name(scores.goal, classes))} {_number(scores.value)}</strong>"
    text += "<p>on the held-out images; 1 is perfect. None was trained on, but the model that was best on them was "
    text += "kept: expect a little less on others."
    if tta is not None:
        text += f" With test-time augmentation (<code>--tta</code>) {_number(tta.value)}."
    text += (
        f"</p><p>Always saying the same class, without looking, would give {_number(scores.floor_value)}. "
        f"Pixel accuracy {_number(scores.accuracy)}; the same class everywhere: {_number(scores.floor)}.</p>"
    )
    if scores.value < scores.floor_value + 0.01:
        text += "<p>The model is hardly better than that: train it for longer, or check the labels.</p>"
    return f"<div class='headline'>{text}</div>"


def _score_tables(scores: "Scores", tta: "Scores | None", classes: Sequence[LabelClass]) -> str:
    """Scores as a whole, of each class and of each image: in one pass and, where known, averaged over 8 views."""
    runs = [scores] if tta is None else [scores, tta]
    heads = ["one pass"] if tta is None else ["one pass", "8 views (--tta)"]
    goal = escape(goal_name(scores.goal, classes))
    rows = [(f"<b>{goal}</b>", *(_number(one.value) for one in runs), _number(scores.floor_value))]
    if scores.v_rand is not None:
        rows.append(("V_Info", *(_number(one.v_info) for one in runs), ""))
    if scores.goal != "miou":
        rows.append(("mean IoU", *(_number(one.miou) for one in runs), ""))
    rows.append(("pixel accuracy", *(_number(one.accuracy) for one in runs), _number(scores.floor)))
    each = []
    for n, kind in enumerate(classes):
        swatch = f"<span class='swatch' style='background:{escape(kind.colour)}'></span>"
        values = [_number(value) for run in runs for value in (run.dice[n], run.iou[n])]
        each.append((f"{swatch}{escape(kind.name)}", *values))
    named = [f"{what}, {head}" for head in heads for what in ("Dice", "IoU")]
    words = "Dice and IoU: how far prediction and labels overlap."
    if scores.v_rand is not None:
        words += " V_Rand and V_Info: how well cells are kept whole and apart (protocol of the ISBI 2012 challenge)."
    worst = sorted(scores.sections, key=lambda pair: pair[1])[:_MOST_IMAGES]
    title = "held-out image" if len(worst) == len(scores.sections) else f"worst of {len(scores.sections):,} images"
    images = _table((title, goal), [(escape(name), _number(value)) for name, value in worst])
    return (
        _table(("", *heads, "always the same class"), rows)
        + _table(("class", *named), each)
        + f"<p class='soft'>{words}</p>{images}"
    )


def _number(value: float | None) -> str:
    return "&ndash;" if value is None or math.isnan(value) else f"{value:.3f}"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "<thead><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead>" if heads else ""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table>{top}<tbody>{lines}</tbody></table></div>"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of every setting as HTML-free text; names of nested ones are joined by dots."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(map(str, value))
        else:
            yield f"{above}{name}", "not given" if value is None or value == "" else str(value)


def _figure(path: Path) -> str:
    """A picture as part of the page, under its heading."""
    heading, caption = _CAPTIONS.get(path.stem, (escape(path.name), ""))
    data, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        if len(data) > _LARGEST_PNG:
            stream = io.BytesIO()
            picture.convert("RGB").save(stream, "JPEG", quality=88, optimize=True)
            data, kind = stream.getvalue(), "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{heading}">'
    return _section(heading, f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
