"""What messages advise is in the words of the command line."""

import ast
import re
from pathlib import Path

import click
import pytest
import tifffile
from command_line import Run
from conftest import noise, toy_model

from tilesegment.errors import option
from tilesegment_cli.main import tileseg

SOURCE = Path(__file__).parents[1] / "tilesegment"
# of every command, by the names that their functions have
OPTIONS = {
    str(one.name) for command in tileseg.commands.values() for one in command.params if isinstance(one, click.Option)
}


def messages() -> list[tuple[str, str]]:
    """Where an error is raised, and the text of it, with a blank for what is put in."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = [n for one in node.exc.args for n in ast.walk(one) if isinstance(n, ast.Constant)]
                text = " ".join(str(part.value) for part in parts if isinstance(part.value, str))
                found.append((f"{path.relative_to(SOURCE)}:{node.lineno}", text))
    return found


MESSAGES = messages()


def test_the_messages_are_seen() -> None:
    assert len(MESSAGES) > 200
    assert any("--overwrite" in text for _, text in MESSAGES)
    assert {"normalise", "class_weights", "skip_empty", "halo"} <= OPTIONS


def test_settings_are_named_as_options() -> None:
    """No argument of a function in the place of an option: `class_weights`, "leave roi out", "use normalise image"."""
    words = {"folder", "name", "classes", "image"}  # of English, too
    names = "|".join(sorted(OPTIONS - words, key=len, reverse=True))
    underscored = "|".join(name for name in OPTIONS if "_" in name)
    advice = rf"(leave|leave out|use|give|with|choose another|or) ({names})( out\b|[ ,;.]*$|, | \w+$|;)"
    wrong = re.compile(rf"(?<![-\w])({underscored})(?!\w)|(?<![-\w])leave ({names}) out\b|(?<![-\w]){advice}")
    assert wrong.search("use normalise image") and wrong.search("class_weights") and wrong.search("leave roi out")
    assert not {where: text for where, text in MESSAGES if wrong.search(text)}


def test_an_option_is_a_setting_with_dashes() -> None:
    assert option("border_weight") == "--border-weight"


@pytest.mark.parametrize(
    ("image", "model", "more", "advised", "not_advised"),
    [
        ("deep", "uint8", "", "--normalise image", "use normalise"),
        ("holed", "float32", "", "--roi", "--normalise"),
        ("holed", "float32", "--normalise image", "--roi", "leave out --normalise"),
        ("holed", "uint8", "--normalise image", "--roi", "leave out --normalise"),
        ("holed", "uint8", "", "--normalise image", ""),
        ("flat", "float32", "--normalise image", "leave out --normalise image", "NaN"),
        # the model's own grey values are no way out: they would be refused
        ("flat", "uint8", "--normalise image", "--roi", "leave out --normalise"),
    ],
)
def test_grey_values_are_not_advised_in_a_circle(
    image: str, model: str, more: str, advised: str, not_advised: str, folder: Path, run: Run
) -> None:
    """What is advised leads on: following it never leads to the message before."""
    holed, flat = noise((64, 64), dtype="float32"), noise((64, 64), dtype="float32")
    holed[5, 5] = float("nan")
    flat[:] = 3
    tifffile.imwrite(folder / "holed.tif", holed)
    tifffile.imwrite(folder / "flat.tif", flat)
    tifffile.imwrite(folder / "deep.tif", noise((64, 64), dtype="uint16"))
    toy_model(dtype=model).save(folder / "m.safetensors")
    found = run(f"predict {image}.tif --model m.safetensors --tile 88 --out mask.zarr {more}")
    assert found.code == 1
    assert advised in found.err
    assert not not_advised or not_advised not in found.err
