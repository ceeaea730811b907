"""Which bundled model an image gets if none is named, and what is said of an image of the wrong kind."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import data_folder, noise, toy_model
from image_files import make_pixels, tiff
from mask_files import saved
from scipy import ndimage

import tilesegment
from tilesegment import ModelError, PlanError, Region
from tilesegment.images import open_image
from tilesegment.images.ground import ground_of, is_grey, look_at
from tilesegment.models import bundled_models
from tilesegment.models.header import ModelHeader
from tilesegment.models.model import Model
from tilesegment.prediction.opening import check_kind, choose
from tilesegment.prediction.settings import Settings

KINDS = {"em-membrane": (1, ""), "em-organelles": (1, ""), "nuclei-fluo": (1, "dark"), "nuclei-he": (3, "bright")}


def blobs(side: int = 160, size: float = 6.0) -> np.ndarray:
    """Where there are nuclei, 0 to 1, in a fifth of the image (side, side)."""
    clouds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(side, side)), size)
    return np.clip((clouds - np.quantile(clouds, 0.8)) / clouds.std(), 0, 1)


def fluorescence(dtype: str = "uint8", exposure: float = 1.0) -> np.ndarray:
    """(1, H, W), its background not black."""
    spread = np.random.default_rng(1).normal(0, 0.01, (160, 160))
    most = 1.0 if dtype == "float32" else np.iinfo(dtype).max * exposure
    return ((0.08 + 0.6 * blobs() + spread).clip(0) * most).astype(dtype)[None]


def stained(dtype: str = "uint8") -> np.ndarray:
    """(3, H, W): violet nuclei in pink tissue on white."""
    white, violet = np.array([240, 225, 235])[:, None, None], np.array([90, 60, 140])[:, None, None]
    pixels = white + blobs() * (violet - white) + np.random.default_rng(1).normal(0, 3, (3, 160, 160))
    return (pixels.clip(0, 255) * (257 if dtype == "uint16" else 1)).astype(dtype)


def dim() -> np.ndarray:
    """(1, H, W) of 16 bits: what a camera sees where nothing is."""
    return np.random.default_rng(2).normal(400, 8, (1, 160, 160)).astype(np.uint16)


def glass() -> np.ndarray:
    """(3, H, W): a field of a slide without tissue, not quite white."""
    return np.random.default_rng(2).normal(236, 2, (3, 160, 160)).clip(0, 255).astype(np.uint8)


def micrograph() -> np.ndarray:
    """(1, H, W), about as many dark pixels as bright ones."""
    clouds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(160, 160)), 2)
    return (128 + 50 * clouds / clouds.std()).clip(0, 255).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Toy models in the place of the bundled ones."""
    folder = tmp_path_factory.mktemp("known")
    for name, (channels, ground) in KINDS.items():
        toy = toy_model(channels=channels)
        Model(replace(toy.header, name=name, ground=ground), toy.network).save(folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in KINDS}


def header_of(known: dict[str, Path], name: str) -> ModelHeader:
    return Model.load(known[name]).header


def write(folder: Path, pixels: np.ndarray) -> Path:
    """Any number of channels, as a TIFF."""
    path, is_colour = folder / "image.tif", len(pixels) in (3, 4) and pixels.dtype != np.float32
    if is_colour:
        extra = {"extrasamples": ["unassalpha"]} if len(pixels) == 4 else {}
        tifffile.imwrite(path, pixels.transpose(1, 2, 0), photometric="rgb", **extra)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})
    return path


def chosen_for(path: Path, known: dict[str, Path], **settings: Any) -> tuple[str, str]:
    with open_image(path) as source:
        return choose(source, Settings(**settings), known)


ALPHA = np.full((1, 160, 160), 255, np.uint8)


@pytest.mark.parametrize(
    ("pixels", "settings", "expected"),
    [
        (fluorescence(), {}, "nuclei-fluo"),
        (fluorescence("uint16", 1 / 16), {}, "nuclei-fluo"),
        (fluorescence("float32"), {}, "nuclei-fluo"),
        (fluorescence("uint8", 0.1), {}, "nuclei-fluo"),
        (micrograph(), {}, "em-membrane"),
        (255 - fluorescence(), {}, "em-membrane"),
        (np.zeros((1, 160, 160), np.uint16), {}, "nuclei-fluo"),
        (stained(), {}, "nuclei-he"),
        (np.full((3, 160, 160), 255, np.uint8), {}, "nuclei-he"),
        (glass(), {}, "nuclei-he"),
        (np.concatenate([stained(), ALPHA]), {}, "nuclei-he"),
        (stained(), {"channels": (0,)}, "em-membrane"),
        (np.concatenate([fluorescence() // 20, fluorescence()]), {"channels": (1,)}, "nuclei-fluo"),
        (np.concatenate([ALPHA, stained()]), {"channels": (1, 2, 3)}, "nuclei-he"),
    ],
)
def test_the_image_chooses_the_model(
    pixels: np.ndarray, settings: dict[str, Any], expected: str, known: dict[str, Path], tmp_path: Path
) -> None:
    name, why = chosen_for(write(tmp_path, pixels), known, **settings)
    assert name == expected
    assert ("dark" in why and "not" not in why) == (expected == "nuclei-fluo")
    assert ("bright" in why) == (expected == "nuclei-he")


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (np.concatenate([fluorescence()] * 2), "--model nuclei-fluo --channels 0"),
        (
            np.concatenate([fluorescence() // 9, fluorescence() // 5, fluorescence()]),
            "--model nuclei-fluo --channels 2",
        ),
        (np.concatenate([micrograph()] * 3), "--model em-membrane --channels 0"),
        (stained("uint16"), "3 channels of uint16 on bright ground"),
        (np.concatenate([stained(), micrograph(), micrograph()]), "5 channels"),
        (dim(), "--model nuclei-fluo if it is fluorescence .* --normalise image"),
    ],
)
def test_what_no_bundled_model_takes_is_refused_with_advice(
    pixels: np.ndarray, named: str, known: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        chosen_for(write(tmp_path, pixels), known)
    assert "\n" not in str(caught.value)


def test_an_empty_field_of_16_bits_is_taken_for_micrographs_if_it_is_scaled_by_itself(
    known: dict[str, Path], tmp_path: Path
) -> None:
    assert chosen_for(write(tmp_path, dim()), known, normalise="image")[0] == "em-membrane"


def test_only_what_is_bundled_is_chosen(known: dict[str, Path], tmp_path: Path) -> None:
    few = {"em-membrane": known["em-membrane"]}
    assert chosen_for(write(tmp_path, fluorescence()), few) == ("em-membrane", "")
    with pytest.raises(ModelError, match="em-membrane takes 1"):
        chosen_for(write(tmp_path, stained()), few)


def notes_for(path: Path, known: dict[str, Path], name: str, **settings: Any) -> str:
    with open_image(path) as source:
        return "\n".join(check_kind(source, Settings(**settings), header_of(known, name), known))


@pytest.mark.parametrize(
    ("pixels", "model", "named"),
    [
        (micrograph(), "nuclei-fluo", "--model em-membrane"),
        (255 - fluorescence(), "nuclei-fluo", "on dark ground"),
        (np.concatenate([micrograph()] * 3), "nuclei-he", "--model em-membrane --channels 0"),
        (np.concatenate([fluorescence() // 9, fluorescence(), fluorescence() // 9]), "nuclei-he", "--channels 1"),
        (fluorescence(), "nuclei-fluo", ""),
        (stained(), "nuclei-he", ""),
        (np.concatenate([stained(), ALPHA]), "nuclei-he", ""),
        (fluorescence(), "em-membrane", ""),
        (np.concatenate([fluorescence()] * 2), "em-membrane", ""),
    ],
)
def test_a_model_of_another_kind_is_told(
    pixels: np.ndarray, model: str, named: str, known: dict[str, Path], tmp_path: Path
) -> None:
    said = notes_for(write(tmp_path, pixels), known, model)
    assert named in said and "\n" not in said
    assert bool(said) == bool(named)


@pytest.mark.parametrize(
    ("pixels", "model", "right"),
    [
        (stained(), "nuclei-fluo", "--model nuclei-he"),
        (fluorescence(), "nuclei-he", "--model nuclei-fluo"),
        (micrograph(), "nuclei-he", "--model em-membrane"),
        (fluorescence()[[0, 0, 0]] // np.array([9, 1, 9], np.uint8)[:, None, None], "nuclei-fluo", "--channels 1"),
    ],
)
def test_other_channels_are_refused_with_the_right_model(
    pixels: np.ndarray, model: str, right: str, known: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=f"the model takes .* {right}") as caught:
        notes_for(write(tmp_path, pixels), known, model)
    assert "0 to 0" not in str(caught.value) and "1 channels" not in str(caught.value)


def test_what_was_noted_is_recorded_and_nothing_is_said_of_a_model_of_unknown_kind(tmp_path: Path) -> None:
    toy = toy_model()
    model = saved(Model(replace(toy.header, ground="dark"), toy.network), tmp_path)
    exact: dict[str, Any] = {"tile": 88, "precision": "fp64"}
    done = tilesegment.predict(write(tmp_path, micrograph()), tmp_path / "m.zarr", model, **exact)
    assert [note for note in done.notes if "not on dark ground" in note]
    done = tilesegment.predict(write(tmp_path, micrograph()), tmp_path / "n.zarr", saved(toy, tmp_path), **exact)
    assert not [note for note in done.notes if "ground" in note]


@pytest.mark.parametrize(("pixels", "name"), [(fluorescence(), "nuclei-fluo"), (stained(), "nuclei-he")])
def test_the_choice_is_said_and_recorded(pixels: np.ndarray, name: str, tmp_path: Path) -> None:
    if name not in bundled_models():
        pytest.skip(f"this release comes without {name}")
    settings: dict[str, Any] = {"precision": "fp32", "roi": Region(0, 0, 64, 64)}
    done = tilesegment.predict(write(tmp_path, pixels), tmp_path / "m.zarr", **settings)
    (note,) = (note for note in done.notes if "no model was named" in note)
    assert f"bundled {name}, as" in note and "others: --model em-membrane" in note
    record = tilesegment.open_mask(tmp_path / "m.zarr").spec.provenance["model"]
    assert "on" in record["chosen_for"] and record["name"] == name


def test_the_slide_of_the_demo_gets_em_membrane(known: dict[str, Path], tmp_path: Path) -> None:
    demo = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "make_slide.py"))
    demo["make_slide"](tmp_path / "slide.tif", 600)
    assert chosen_for(tmp_path / "slide.tif", known)[0] == "em-membrane"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("nuclei-fluo", "nuclei-fluo"),
        ("nuclei-fluo-tissue", "nuclei-fluo"),
        ("nuclei-he", "nuclei-he"),
        ("nuclei-purple", "nuclei-he"),
        ("isbi2012", "em-membrane"),
        ("vnc", "em-membrane"),
    ],
)
def test_real_images_get_the_model_for_their_kind(folder: str, expected: str, known: dict[str, Path]) -> None:
    images = sorted((data_folder(folder) / "images").iterdir())
    found = {path.name: chosen_for(path, known)[0] for path in images}
    assert len(found) > 10
    assert not {name for name, one in found.items() if one != expected}


def test_padding_says_nothing_of_the_ground() -> None:
    """A mosaic with black or white corners is what it is without them."""
    for pixels, expected in ((micrograph(), ""), (fluorescence(), "dark"), (stained(), "bright")):
        for value in (0, 255):
            padded = pixels.copy()
            padded[:, :96] = value
            assert ground_of(padded) == expected
    assert ground_of(np.zeros((1, 9, 9), np.uint8)) == "dark"
    assert ground_of(np.full((3, 9, 9), 255, np.uint8)) == "bright"  # glass, a tile of a slide among others
    assert ground_of(np.full((1, 9, 9), 255, np.uint8)) == ""


def test_values_that_are_not_finite_say_nothing_either() -> None:
    pixels = fluorescence("float32")
    pixels[0, :40, :90] = np.nan
    pixels[0, 50, 3:6] = np.inf, -np.inf, np.nan
    assert ground_of(pixels) == "dark"
    assert ground_of(np.full((1, 40, 40), np.nan, np.float32)) == ""
    assert not is_grey(pixels) and is_grey(np.concatenate([micrograph()] * 3))


def test_the_look_is_cheap_and_the_same_for_every_part(tmp_path: Path) -> None:
    """Of a large level 16 windows, of a pyramid its smallest level that shows enough, of a stack three planes."""
    large = tiff("yx", tile=(256, 256))(tmp_path, make_pixels(1, 2000, 3000))
    with open_image(large) as source:
        assert look_at(source).shape == (1, 256, 16 * 256)
    with open_image(write(tmp_path, noise((2, 300, 900)))) as source:
        assert look_at(source, (1,)).shape == (1, 300, 900)
    stack = tiff("zyx", photometric="minisblack")(tmp_path, noise((9, 1, 40, 50)))
    with open_image(stack) as source:
        np.testing.assert_array_equal(
            look_at(source)[0], np.concatenate([*noise((9, 1, 40, 50))[[0, 4, 8], 0]], axis=1)
        )
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(np.zeros((4096, 2048), np.uint8), subifds=3, tile=(256, 256))
        for n, side in enumerate((1024, 512, 256)):
            writer.write(np.full((2 * side, side), n + 1, np.uint8), subfiletype=1, tile=(256, 256))
    with open_image(tmp_path / "pyramid.tif") as source:
        seen = look_at(source)
    assert seen.shape == (1, 512, 256) and (seen == 3).all()
