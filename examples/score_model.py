"""Scores a model on the sections that were held out when it was trained, in one pass and averaged over 8 views.

    python examples/score_model.py runs/em_data/model.safetensors em_data

Prints a line of JSON with the scores that stand in a model's card.
"""

import argparse
import json
from dataclasses import asdict
from typing import Any

from tilesegment import DataError, Model, TilesegmentError
from tilesegment.predictors.devices import choose_device
from tilesegment.training.data import open_dataset
from tilesegment.training.validation import validate


def score(model_path: str, data: str, device: str = "auto") -> dict[str, Any]:
    """Scores of the model on its held-out sections, found in the folder `data` by their names."""
    model = Model.load(model_path)
    held_out = set(model.header.training.get("held_out", []))
    names = [one.name for one in model.header.classes]
    sections = [section for section in open_dataset(data, names).sections if section.name in held_out]
    if not sections:
        raise DataError(f"{data} has none of the sections that {model_path} was not trained on: {sorted(held_out)}")
    tile = model.header.training["settings"]["tile"]
    chosen = choose_device(device)
    views = {"one_pass": False, "eight_views": True}
    scores = {name: asdict(validate(model, sections, chosen, tile, tta=tta)) for name, tta in views.items()}
    return {"sections": [section.name for section in sections], **scores}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        print(json.dumps(score(given.model, given.data, given.device)))
    except TilesegmentError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
