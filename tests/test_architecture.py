"""Which part imports which, what an import costs, and what the wheel holds."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tilesegment

ROOT = Path(__file__).parents[1]

# each part may import those above it, never one below; parts of one line do not know each other
LAYERS = (
    ("errors",),
    ("metadata", "geometry", "threads", "signals", "files"),
    ("stores",),
    ("draw", "ome_zarr", "networks"),
    ("images", "masks"),
    ("preview", "labels", "models"),
    ("objects",),
    ("scoring", "prediction"),
    ("cluster", "training", "viewer"),
    ("__init__",),
    ("cli",),
)
# imports that are still to be turned: who imports what
STILL: set[tuple[str, str]] = set()
# third parties that stay where they are wrapped
ONLY = {
    "torch": {"networks", "models", "prediction", "training"},
    "safetensors": {"models", "objects", "training"},
    "openvino": {"prediction"},
    "nncf": {"prediction"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "click": {"cli"},
    "rich": {"cli"},
    "tifffile": {"images", "masks"},
    "zarr": {"images", "masks", "ome_zarr"},
    "numcodecs": {"images", "masks"},
    "matplotlib": {"training", "draw"},
    "shapely": {"objects", "labels", "viewer"},
    "mrcfile": {"images"},
    "h5py": {"images"},
    "slideio": {"images"},
    "pyarrow": {"objects"},
    "openslide": {"images"},
    "wsidicom": {"images"},
    "pydicom": {"images"},
    "obstore": {"stores"},
    "tornado": {"viewer"},
}


def part_of(path: Path) -> str:
    """The part that a source file belongs to: `images` for images/tiff.py, `plan` for plan.py, `cli` for all of it."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return top if top == "cli" else rest[0]


def modules_of(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, wherever in it; those for types alone included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, "imports are absolute"
            # `from tilesegment import training` names a part too
            whole = node.module in ("tilesegment", "tilesegment_cli")
            yield from (f"{node.module}.{alias.name}" if whole else node.module for alias in node.names)


FILES = [path for top in ("tilesegment", "cli") for path in sorted((ROOT / top).rglob("*.py"))]
# file, its part, a module that it imports
IMPORTS = [(path, part_of(path), name) for path in FILES for name in modules_of(ast.parse(path.read_text()))]
OURS = [(path, part, name.split(".")[1]) for path, part, name in IMPORTS if name.startswith("tilesegment.")]


def test_the_imports_are_seen() -> None:
    """Of this everything else depends: every part is known, and some imports that there must be."""
    known = {part for layer in LAYERS for part in layer}
    assert {part_of(path) for path in FILES} <= known
    assert {("prediction", "geometry"), ("cluster", "prediction")} <= {(part, used) for _, part, used in OURS}
    assert ("prediction", "torch") in {(part, name) for _, part, name in IMPORTS}
    code = "from tilesegment import training\ndef f():\n    import torch.nn\n    from tilesegment.images import axes"
    assert list(modules_of(ast.parse(code))) == ["tilesegment.training", "torch.nn", "tilesegment.images"]


def test_imports_point_one_way() -> None:
    rank = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    wrong = [
        f"{path.relative_to(ROOT)} imports {used}"
        for path, here, used in OURS
        if used in rank and used != here and rank[used] >= rank[here] and (here, used) not in STILL
    ]
    assert not wrong


def test_nothing_imports_the_command_line() -> None:
    assert not [
        path for path, here, name in IMPORTS if here != "cli" and name.split(".")[0] in ("tilesegment_cli", "cli")
    ]


@pytest.mark.parametrize("package", ONLY)
def test_third_parties_stay_where_they_are_wrapped(package: str) -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path, here, name in IMPORTS
        if name.split(".")[0] == package and here not in ONLY[package]
    ]
    assert not wrong


def test_every_public_name_is_there() -> None:
    for name in tilesegment.__all__:
        assert getattr(tilesegment, name).__doc__, f"{name} is not documented"
    assert sorted(tilesegment.__all__) == tilesegment.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tilesegment.nothing  # noqa: B018


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_an_import_loads_nothing_heavy() -> None:
    """`tileseg --help` answers at once."""
    heavy = {"torch", "zarr", "tifffile", "skimage", "scipy", "matplotlib", "PIL", "dask"}
    assert not loaded_by("import tilesegment, tilesegment_cli.main") & heavy
    assert (
        not loaded_by(
            "from tilesegment.models import header\nfrom tilesegment.prediction import settings, tiling, engine"
        )
        & heavy
    )
    assert "torch" in loaded_by("from tilesegment import Model")


def test_the_wheel_holds_what_is_needed_and_no_package_called_cli(tmp_path: Path) -> None:
    # by name: to look for the module setuptools meddles with distutils, which another test may have imported
    if not {"setuptools", "pip"} <= {one.metadata["Name"] for one in importlib.metadata.distributions()}:
        pytest.skip("needs pip and setuptools in this environment to build the wheel")
    source = tmp_path / "source"
    for name in ("tilesegment", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "tilesegment" / "models" / "another.safetensors").write_bytes(b"weights")
    (source / "tilesegment" / "models" / "another.md").write_text("card")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*command, "-w", tmp_path, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert "tileseg = tilesegment_cli.main:main" in entry
    expected = {path.relative_to(source) for path in (source / "tilesegment").rglob("*") if path.is_file()}
    assert {str(path) for path in expected} <= names
    assert {"tilesegment/py.typed", "tilesegment/models/another.safetensors", "tilesegment/models/another.md"} <= names
    assert {f"tilesegment_cli/{path.name}" for path in (ROOT / "cli").glob("*.py")} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tilesegment", "tilesegment_cli"}


def test_every_module_is_on_the_map() -> None:
    """Packages and top-level modules are named on the page, and all that the page names is there."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    parts = {part_of(path) for path in FILES} - {"__init__", "cli"}
    for part in parts:
        name = f"{part}/" if (ROOT / "tilesegment" / part).is_dir() else f"{part}.py"
        assert name in page, f"{name} is not on docs/architecture.md"
    for named in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page):
        assert (ROOT / named).exists() or (ROOT / "tilesegment" / named).exists(), f"there is no {named}"


def test_few_modules_at_the_top() -> None:
    assert len([path for path in (ROOT / "tilesegment").glob("*.py") if path.stem != "__init__"]) <= 8
