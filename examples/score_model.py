"""Scores a model on the images that were held out when it was trained, in one pass and averaged over 8 views.

    python examples/score_model.py runs/em_data/model.safetensors em_data
    python examples/score_model.py em-membrane other_sections --all
    python examples/score_model.py nuclei-fluo nuclei --all --picture worst.png

Prints a line of JSON with the scores that stand in a model's card: of a model of single objects, DATA holds their ids.
With `--all` every image of DATA is scored, which says something only of data that the model has not seen. `--picture`
draws the worst ones.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tilesegment import DataError, Model, TilesegmentError
from tilesegment.prediction.devices import choose_device, choose_precision
from tilesegment.training.data import Dataset, open_dataset
from tilesegment.training.pictures import draw_samples, worst_first
from tilesegment.training.targets import learnable
from tilesegment.training.validation import choose_goal, validate

_WORST = 4  # images in the picture


def score(
    model_path: str, data: str, device: str = "auto", *, every: bool = False, picture: Path | None = None
) -> dict[str, Any]:
    """Scores of the model on its held-out images, found in the folder `data` by their names, or on `every` one."""
    model = Model.load(model_path)
    held_out = set(model.header.training.get("held_out", []))
    dataset = _open(data, model)
    sections = [section for section in dataset.sections if every or section.name in held_out]
    if not sections:
        raise DataError(f"{data} has none of the sections that {model_path} was not trained on: {sorted(held_out)}")
    chosen = choose_device(device)
    goal = choose_goal(model.header.training["settings"]["goal"], sections, len(dataset.classes))
    where = (sections, chosen, choose_precision(chosen), goal)
    views = {"one_pass": False, "eight_views": True}
    found = {name: validate(model, *where, tta=tta) for name, tta in views.items()}
    if picture is not None:
        one = found["one_pass"]
        title = f"The worst of {len(sections)} images"
        draw_samples(sections, one, worst_first(one.scores)[:_WORST], dataset.classes, picture, title)
    scores = {name: asdict(one.scores) for name, one in found.items()}
    return {"sections": [section.name for section in sections], **scores}


def _open(data: str, model: Model) -> Dataset:
    """The labelled images in `data`, with the classes of the model; of objects, with the rim that it learnt."""
    names = [one.name for one in model.header.classes if one.role != "border"]
    return learnable(open_dataset(data, names))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--all", action="store_true", help="score every image of DATA")
    parser.add_argument("--picture", type=Path, help="draw the worst images into this file")
    given = parser.parse_args()
    try:
        print(json.dumps(score(given.model, given.data, given.device, every=given.all, picture=given.picture)))
    except TilesegmentError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
