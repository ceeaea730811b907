"""docs/python.md as it is read: its code runs, and it names the call of every command."""

import re
from pathlib import Path
from typing import Any

import pytest
from command_calls import CALLS

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
# twenty minutes of training as three updates of a toy network
TOY = {'budget="20m"': "steps=3, base=4, depth=2, tile=72, dropout=0.0"}


@pytest.mark.slow
def test_the_code_runs(folder: Path) -> None:
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for long, short in TOY.items():
            code = code.replace(long, short)
        exec(compile(code, "docs/python.md", "exec"), names)
    assert {path.name for path in folder.iterdir()} >= {"mask.zarr", "run", "data"}


def test_the_page_names_the_call_of_every_command() -> None:
    named = dict(re.findall(r"^\| `(\w+)` \| `tilesegment\.([\w.]+)` \|$", PAGE, re.MULTILINE))
    assert named == CALLS
