"""What `tileseg --help` shows: groups, examples that work, and what was meant by a mistyped word."""

import re
import shlex

import pytest
from command_line import Run

from tilesegment_cli.examples import EXAMPLES
from tilesegment_cli.group import meant
from tilesegment_cli.main import tileseg

LINES = [(name, line) for name, lines in EXAMPLES.items() for line in lines]


def test_help_lists_every_command_once_in_its_group(run: Run) -> None:
    shown = run("--help").out
    titles = re.findall(r"^([A-Z][a-z ]+):$", shown, re.M)
    assert titles[:6] == ["Options", "Predict", "Look", "Train", "Check", "Cluster"]
    sections = {title: shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0] for title in titles}
    for title, words in {"Predict": "predict objects", "Look": "view preview", "Cluster": "status finish"}.items():
        for word in words.split():
            assert re.search(rf"^  {word} ", sections[title], re.M), (title, word)
    for name in tileseg.commands:
        assert len(re.findall(rf"^  {name} ", shown, re.M)) == 1, name
    assert "..." not in shown.partition("\n\n")[2], "no sentence is cut"


def test_every_command_ends_its_help_with_examples(run: Run) -> None:
    assert set(EXAMPLES) == set(tileseg.commands)
    for name, lines in EXAMPLES.items():
        shown = run(f"{name} --help").out
        assert shown.endswith("Examples:\n" + "".join(f"    {line}\n" for line in lines)), name
        assert any(line.startswith(f"tileseg {name}") for line in lines)
        assert all(len(line) <= 90 for line in lines)


@pytest.mark.parametrize(("name", "line"), LINES, ids=[line for _, line in LINES])
def test_an_example_is_parsed(name: str, line: str) -> None:
    program, command, *words = shlex.split(line.partition(" > ")[0])
    assert program == "tileseg"
    context = tileseg.commands[command].make_context(command, words)
    assert not context.args


MISTYPED = [
    ("predct slide.tif", "No such command 'predct'; did you mean predict? (see tileseg --help)"),
    ("segment slide.tif", "No such command 'segment'; did you mean predict? (see tileseg --help)"),
    ("eval a b", "No such command 'eval'; did you mean evaluate? (see tileseg --help)"),
    ("xyzzy", "No such command 'xyzzy' (see tileseg --help)"),
    ("predict a --overwite", "No such option '--overwite'; did you mean --overwrite? (see tileseg predict --help)"),
    ("predict a --output m", "No such option '--output'; did you mean --out? (see tileseg predict --help)"),
    ("train a --buget 3m", "No such option '--buget'; did you mean --budget? (see tileseg train --help)"),
    (
        "predict a --probabilites p.zarr",
        "No such option '--probabilites'; did you mean --probabilities? (see tileseg predict --help)",
    ),
    (
        "predict a --no-browser",
        "No such option '--no-browser'; it is one of tileseg view (see tileseg predict --help)",
    ),
    ("status a --xyzzy", "No such option '--xyzzy' (see tileseg status --help)"),
]


@pytest.mark.parametrize(("line", "said"), MISTYPED, ids=[line for line, _ in MISTYPED])
def test_a_mistyped_word_is_told_with_what_was_meant(line: str, said: str, run: Run) -> None:
    found = run(line)
    assert (found.code, found.out, found.err) == (2, "", f"Error: {said}\n")


def test_every_word_without_one_of_its_letters_is_recognised() -> None:
    for name, command in tileseg.commands.items():
        if len(name) > 4:
            assert name in meant(name[:2] + name[3:], tileseg.commands), name
        options = {one for each in command.params for one in each.opts if one.startswith("--")}
        for one in options:
            if len(one) > 6:
                assert one in meant(one[:3] + one[4:], options), one


def test_the_words_of_other_programs_lead_to_options_that_exist() -> None:
    from tilesegment_cli.group import _ELSEWHERE

    options = {one for command in tileseg.commands.values() for each in command.params for one in each.opts}
    for other, ours in _ELSEWHERE.items():
        assert ours in options | set(tileseg.commands)
        assert other not in tileseg.commands
