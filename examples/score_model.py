"""Scores a model on the sections that were held out when it was trained, in one pass and averaged over 8 views.

    python examples/score_model.py runs/em_data/model.safetensors em_data
    python examples/score_model.py em-membrane other_sections --all

Prints a line of JSON with the scores that stand in a model's card. With `--all` every section of DATA is scored, which
says something only of data that the model has not seen.
"""

import argparse
import json
from dataclasses import asdict
from typing import Any

from tilesegment import DataError, Model, TilesegmentError
from tilesegment.prediction.devices import choose_device, choose_precision
from tilesegment.training.data import open_dataset
from tilesegment.training.validation import choose_goal, validate


def score(model_path: str, data: str, device: str = "auto", *, every: bool = False) -> dict[str, Any]:
    """Scores of the model on its held-out sections, found in the folder `data` by their names, or on `every` one."""
    model = Model.load(model_path)
    held_out = set(model.header.training.get("held_out", []))
    names = [one.name for one in model.header.classes]
    sections = [section for section in open_dataset(data, names).sections if every or section.name in held_out]
    if not sections:
        raise DataError(f"{data} has none of the sections that {model_path} was not trained on: {sorted(held_out)}")
    chosen = choose_device(device)
    goal = choose_goal(model.header.training["settings"]["goal"], sections, len(names))
    where = (sections, chosen, choose_precision(chosen), goal)
    views = {"one_pass": False, "eight_views": True}
    scores = {name: asdict(validate(model, *where, tta=tta).scores) for name, tta in views.items()}
    return {"sections": [section.name for section in sections], **scores}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--all", action="store_true", help="score every section of DATA")
    given = parser.parse_args()
    try:
        print(json.dumps(score(given.model, given.data, given.device, every=given.all)))
    except TilesegmentError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
