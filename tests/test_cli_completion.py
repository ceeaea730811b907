"""Completion by the shell: what is completed, and how it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run

from tilesegment_cli.completion import append_once, start_file

LINES = {
    "bash": 'eval "$(_TILESEG_COMPLETE=bash_source tileseg)"',
    "zsh": 'eval "$(_TILESEG_COMPLETE=zsh_source tileseg)"',
    "fish": "_TILESEG_COMPLETE=fish_source tileseg | source",
}
FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}
PROGRAM = "#!{}\nfrom tilesegment_cli.main import main\nmain()\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shell", LINES)
def test_the_line_is_printed_and_appended_once(shell: str, home: Path, run: Run) -> None:
    found = run(f"completion {shell}")
    assert (found.code, found.out) == (0, LINES[shell] + "\n")
    assert not list(home.iterdir()), "without --install nothing is written"
    file = home / FILES[shell]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine\xff without an end")
    for _ in range(2):
        assert run(f"completion {shell} --install").code == 0
        assert file.read_bytes() == b"mine\xff without an end\n" + LINES[shell].encode() + b"\n"
    file.unlink()
    assert run(f"completion {shell} --install").code == 0
    assert file.read_text() == LINES[shell] + "\n"


def test_a_file_that_is_a_link_stays_one(home: Path) -> None:
    (home / "dotfiles").write_text("mine\n")
    (home / ".bashrc").symlink_to("dotfiles")
    assert append_once(start_file("bash"), "line")
    assert (home / ".bashrc").is_symlink() and (home / "dotfiles").read_text() == "mine\nline\n"


def test_shells_with_folders_of_their_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZDOTDIR", str(home / "z"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "x"))
    assert start_file("zsh") == home / "z/.zshrc" and start_file("fish") == home / "x/fish/config.fish"


def test_what_cannot_be_changed_is_named_with_the_line(home: Path, run: Run) -> None:
    (home / ".bashrc").mkdir()
    found = run("completion bash --install")
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert ".bashrc" in found.err and LINES["bash"] in found.err
    assert run("completion tcsh").code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("tileseg pre", {"predict", "preview"}),
        ("tileseg predict --probab", {"--probabilities", "--probabilities-dtype"}),
        ("tileseg completion f", {"fish"}),
        ("tileseg predict sli", {"slide.tif"}),
        ("tileseg predict --out mas", {"mask.zarr"}),
    ],
)
def test_bash_completes(typed: str, wanted: set[str], home: Path, run: Run) -> None:
    """As it does after the line was installed: the function that bash calls, and files where it leaves them to bash."""
    (home / "slide.tif").touch()
    (home / "mask.zarr").mkdir()
    (home / "bin").mkdir()
    program = home / "bin" / "tileseg"
    program.write_text(PROGRAM.format(sys.executable))
    program.chmod(0o755)
    run("completion bash --install")
    words = typed.split()
    script = f"source {home}/.bashrc; compopt() {{ compgen -f -- {words[-1]}; }}; COMP_WORDS=({typed}); "
    script += f'COMP_CWORD={len(words) - 1}; _tileseg_completion tileseg; printf "%s\\n" "${{COMPREPLY[@]}}"'
    environment = {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert set(done.stdout.split()) == wanted, done
