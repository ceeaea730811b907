"""Judges recipes for training by held-out sections: each is trained once for every contiguous split.

    python examples/cross_validate.py isbi2012 runs/ablation --steps 700 reference ce:loss=ce wide:base=32

A recipe is NAME or NAME:KEY=VALUE,KEY=VALUE, the keys being those of `tilesegment.train`; a list is written a/b. The
splits hold out ranges of `--held` neighbouring sections, spread evenly over the stack. Scores are added to
OUT/scores.jsonl as they come, what is there already is not trained again; the table at the end is Markdown.

A run keeps the weights of its best look at the held-out sections, on which they are then scored, so that this score is
a little too good. The score of the last look, whatever it was, stands beside it.
"""

import argparse
import json
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tilesegment
from tilesegment import TilesegmentError
from tilesegment.training.data import open_dataset


def splits(names: list[str], count: int, held: int) -> list[tuple[str, ...]]:
    """`count` ranges of `held` neighbours, from the first to the last section."""
    free = len(names) - held
    starts = [round(free * n / (count - 1)) if count > 1 else free for n in range(count)]
    return [tuple(names[start : start + held]) for start in starts]


def parse(recipe: str) -> tuple[str, dict[str, Any]]:
    """Name and settings."""
    name, _, rest = recipe.partition(":")
    pairs = [part.split("=", 1) for part in rest.split(",") if part]
    return name, {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    if "/" in text:
        return tuple(_value(part) for part in text.split("/"))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def table(lines: list[dict[str, Any]]) -> str:
    """A row a recipe: means over the splits, and the standard deviation between them."""
    heads = [f"{score}{of}" for of in ("", ", 8 views", ", last look") for score in ("V_Rand", "V_Info")]
    rows = [f"| recipe | splits | {' | '.join(heads)} |", "|---|---" + "|---" * len(heads) + "|"]
    for name in dict.fromkeys(line["recipe"] for line in lines):
        of = [line for line in lines if line["recipe"] == name]
        cells = []
        for run in ("scores", "tta", "last"):
            for score in ("v_rand", "v_info"):
                values = [line[run][score] for line in of]
                spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.4f}{spread}")
        rows.append(f"| {name} | {len(of)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", nargs="+", metavar="NAME[:KEY=VALUE,...]")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--held", type=int, default=5, help="sections held out in each split")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the splits to train now")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the runs")
    given = parser.parse_args()
    try:
        run(given)
    except TilesegmentError as error:
        parser.exit(1, f"Error: {error}\n")


def last_look(folder: Path) -> dict[str, Any]:
    """Scores of the last look at the held-out sections in a run's folder."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["scores"] for record in records if record["scores"] is not None][-1]


def run(given: argparse.Namespace) -> None:
    """Trains what is missing and prints the table."""
    scores = given.out / "scores.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in scores.read_text().splitlines()] if scores.exists() else []
    names = [section.name for section in open_dataset(given.data).sections]
    for number, held in enumerate(splits(names, given.splits, given.held)):
        for name, settings in map(parse, given.recipes):
            done = any((line["recipe"], line["split"]) == (name, number) for line in lines)
            if done or (given.only is not None and number not in given.only):
                continue
            folder = given.out / f"{name}-{number}"
            choices = {"steps": given.steps, "goal": "v_rand", **settings, "validation": held}
            found = tilesegment.train(given.data, folder, overwrite=True, **choices)
            line = {"recipe": name, "split": number, "held_out": held, "steps": found.steps, "seconds": found.seconds}
            scored = {"scores": asdict(found.scores), "tta": asdict(found.tta), "last": last_look(folder)}
            lines.append(line | scored)
            with scores.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            if not given.keep:
                shutil.rmtree(folder)
    print(table(lines))


if __name__ == "__main__":
    main()
