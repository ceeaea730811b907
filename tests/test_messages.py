"""Messages advise in the words of the command line, and their advice leads on."""

import ast
import re
from pathlib import Path

import click
import pytest
import tifffile
from command_line import Run
from conftest import noise, toy_model

from tilesegment_cli.main import tileseg

SOURCE = Path(__file__).parents[1] / "tilesegment"


def messages() -> dict[str, str]:
    """The text of each error that is raised, with a blank for each value put in, by file and line."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = [n for one in node.exc.args for n in ast.walk(one) if isinstance(n, ast.Constant)]
                text = " ".join(str(part.value) for part in parts if isinstance(part.value, str))
                found[f"{path.relative_to(SOURCE)}:{node.lineno}"] = text
    return found


def test_settings_are_named_as_options() -> None:
    """No argument of a function in the place of an option: `class_weights`, "leave roi out", "use normalise image"."""
    options = {
        str(one.name)
        for command in tileseg.commands.values()
        for one in command.params
        if isinstance(one, click.Option)
    }
    words = {"folder", "name", "classes", "image"}  # of English, too
    names = "|".join(sorted(options - words, key=len, reverse=True))
    underscored = "|".join(name for name in options if "_" in name)
    advice = rf"(leave|leave out|use|give|with|choose another|or) ({names})( out\b|[ ,;.]*$|, | \w+$|;)"
    wrong = re.compile(rf"(?<![-\w])({underscored})(?!\w)|(?<![-\w])leave ({names}) out\b|(?<![-\w]){advice}")
    assert wrong.search("use normalise image") and wrong.search("class_weights") and wrong.search("leave roi out")
    found = messages()
    assert any("--overwrite" in text for text in found.values())
    assert not {where: text for where, text in found.items() if wrong.search(text)}


@pytest.mark.parametrize(
    ("image", "model", "more", "advised", "not_advised"),
    [
        ("deep", "uint8", "", "--normalise image", "use normalise"),
        ("holed", "float32", "", "--roi", "--normalise"),
        ("holed", "float32", "--normalise image", "--roi", "leave out --normalise"),
        ("holed", "uint8", "--normalise image", "--roi", "leave out --normalise"),
        ("holed", "uint8", "", "--normalise image", "NEVER"),
        ("flat", "float32", "--normalise image", "leave out --normalise image", "NaN"),
        # the model's own grey values are no way out: they would be refused
        ("flat", "uint8", "--normalise image", "--roi", "leave out --normalise"),
    ],
)
def test_following_the_advice_does_not_lead_back(
    image: str, model: str, more: str, advised: str, not_advised: str, folder: Path, run: Run
) -> None:
    pixels = noise((64, 64), dtype="uint16" if image == "deep" else "float32")
    if image == "holed":
        pixels[5, 5] = float("nan")
    if image == "flat":
        pixels[:] = 3
    tifffile.imwrite(folder / "image.tif", pixels)
    toy_model(dtype=model).save(folder / "m.safetensors")
    found = run(f"predict image.tif --model m.safetensors --tile 88 --out mask.zarr {more}")
    assert (found.code, advised in found.err, not_advised in found.err) == (1, True, False), found.err
