"""A model in an ONNX file or in a bioimage.io package, used like one of ours."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.models.header import KEY, ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import OnnxFile, read_onnx, values_per_pixel
from tilesegment.models.onnx_metadata import KEYS, describe_file
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.models.package import Description, is_package, read_package
from tilesegment.networks.field_of_view import ADVICE, LARGEST, TOLERANCE, InexactError, Prober, side_of, widened

# side of a tile as they usually are, pixels
_USUAL = 512
# beside the header: where the network looks
VIEW_KEY = f"{KEY}.field_of_view"


def load_model(model: str | Path) -> Model:
    """A model of any kind: ours, by file or bundled name, an ONNX file, or a bioimage.io package.

    Raises:
        ModelError: it cannot be loaded; says why.
    """
    if Path(model).suffix.lower() == ".onnx" or is_package(Path(model)):
        return OnnxModel.load(model)
    return Model.load(model)


@dataclass(frozen=True)
class OnnxModel(Model):
    """A model whose network onnxruntime runs.

    What its first output means: one channel is the probability of class 1 of two or, if any of its values lies outside
    0 to 1, its logit; K channels are probabilities if they lie within 0 to 1 and sum to 1, else logits.

    What a bare ONNX file takes is not known: grey values of its input's own type are fed as they are, others have to be
    normalised by the image (`normalise="image"`). `onnx_metadata` says how such a file can tell.

    Attributes:
        network: as the file gives it.
        prober: runs it on random images.
        described: its field of view, according to the file or its package; verified before it is used.
        assumed: a line for people: what was assumed, as neither file nor package says it; empty where they do.
    """

    network: OnnxNetwork
    prober: Prober
    described: FieldOfView | None = None
    assumed: str = ""

    @cached_property
    def field_of_view(self) -> FieldOfView:
        """What the network needs to see around what it decides: described and verified, or found by running it.

        Raises:
            ModelError: no halo makes its tiles exact, and none was chosen.
        """
        if self.header.halo is not None:
            return self._chosen(self.header.halo)
        try:
            if self.described is not None and max(self.described.before, self.described.after) > LARGEST:
                raise InexactError(f"it sees more than {LARGEST} px, too far to verify")
            if self.described is not None and self._holds(self.described):
                return self.described
            return self.prober.view()
        except ModelError as error:
            advice = ADVICE if isinstance(error, InexactError) else ""
            hint = "" if self.described is None else f" (its description gives {self.described.before} px)"
            raise ModelError(f"{self.network.file.path}: {error}{advice}{hint}") from error

    def with_halo(self, halo: int) -> "OnnxModel":
        """The same with a chosen halo, pixels, rounded up to the network's divisor; its tiles need not be exact.

        Raises:
            ModelError: the network crops its own output, so that its halo is given.
        """
        model = replace(self, header=replace(self.header, halo=halo))
        model.field_of_view  # noqa: B018 - raises
        return model

    def pruned(self, level: int) -> "Model":
        """Refused.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.network.file.path}: an ONNX model cannot be pruned; prune before it is exported")

    def save(self, path: str | Path, *, half: bool = False) -> "Model":
        """Refused.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.network.file.path}: an ONNX model is not saved as one of ours; copy the file instead")

    @classmethod
    def load(cls, model: str | Path) -> "OnnxModel":
        """The model in an ONNX file, or in a bioimage.io 0.5 package: a zip, its folder or its rdf.yaml.

        Raises:
            ModelError: onnxruntime is missing, or the model cannot be used; says why.
        """
        check_installed("onnx", "onnxruntime", "yaml")
        path = Path(model)
        description, file = read_package(path) if is_package(path) else (None, read_onnx(path))
        network = OnnxNetwork(file)
        try:
            loaded = _ours(file, network) if KEY in file.metadata else _foreign(file, network, description)
        except ModelError as error:
            raise ModelError(f"{file.path}: {error}") from error
        network.pixel_values = values_per_pixel(file, loaded._side(_USUAL))
        return loaded

    def _chosen(self, halo: int) -> FieldOfView:
        """As `networks.field_of_view.chosen`."""
        try:
            return self.prober.chosen(halo) if self.described is None else widened(self.described, halo)
        except ModelError as error:
            raise ModelError(f"{self.network.file.path}: {error}") from error

    def _holds(self, view: FieldOfView) -> bool:
        try:
            return self.prober.check(view) <= TOLERANCE
        except ModelError:  # it does not even take such tiles
            return False

    def _side(self, least: int = 64) -> int:
        """A side of images that it takes, of `least` pixels."""
        if self.described is not None:
            # more than the halo: some graphs mirror as much
            rim = 0 if self.described.crops else min(self.described.before, LARGEST) + self.described.divisor
            return side_of(self.described, max(least, rim))
        first, unit, _ = self.prober.sizes
        return first + -(-max(least - first, 0) // unit) * unit


def check_installed(*packages: str) -> None:
    """Whether the packages of the extra `onnx` are there.

    Raises:
        ModelError: one is not.
    """
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ModelError(f"ONNX models need {', '.join(missing)}: pip install 'tilesegment[onnx]'")


def _ours(file: OnnxFile, network: OnnxNetwork) -> OnnxModel:
    """A model that `export` wrote: its graph takes grey values and gives probabilities."""
    try:
        header = ModelHeader.from_json(file.metadata[KEY])
        view = FieldOfView(**json.loads(file.metadata[VIEW_KEY]))
        sides = (view.divisor, view.before, view.after)
        limits = (512, LARGEST, LARGEST) if view.crops else (512, 65_536, 65_536)
        in_range = all(isinstance(n, int) and 0 <= n <= most for n, most in zip(sides, limits, strict=True))
        if not in_range or view.divisor == 0:
            raise ValueError(f"field of view {view}")
        if header.channels != file.channels:
            raise ValueError(f"{header.channels} channels, its graph takes {file.channels}")
    except (ModelError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"what it says of itself is damaged ({error}); export it again") from error
    network.feeds, network.activation = header.normalisation, "probabilities"
    model = OnnxModel(replace(header, weights_sha256=file.sha256), network, _prober(network), view)
    given = network.run(model.prober.images(model._side())[0][0]).shape[1]
    if given != len(header.classes):
        raise ModelError(f"gives {given} classes, says that it gives {len(header.classes)}; export it again")
    return model


def _foreign(file: OnnxFile, network: OnnxNetwork, description: Description | None) -> OnnxModel:
    """A model of others: what its package says of it, and what it does."""
    prober, about = _prober(network), description or describe_file(file)
    view = about.view
    side = prober.sizes[0] if view is None else side_of(view)
    results = [network.run(image) for image, _, _ in prober.images(side)]
    network.activation = about.activation or ("probabilities" if all(map(_are_probabilities, results)) else "logits")
    header = _header(file, max(results[0].shape[1], 2), about)
    header.check()
    return OnnxModel(header, network, prober, view, _assumed(file, header, about))


def _header(file: OnnxFile, count: int, about: Description) -> ModelHeader:
    # of one channel only the class that it stands for has a name
    names = ("background", *about.names) if len(about.names) == 1 else about.names
    names = names if len(names) == count else tuple(f"class {n}" for n in range(count))
    as_they_are = Normalisation((0.0,) * file.channels, (1.0,) * file.channels, file.dtype)
    return ModelHeader(
        network="onnx",
        arguments={"in_channels": file.channels, "classes": count},
        classes=tuple(LabelClass(name, colour) for name, colour in zip(names, default_colours(count), strict=True)),
        normalisation=about.normalisation or as_they_are,
        pixel_size=about.pixel_size,
        name=about.name,
        licence=about.licence,
        weights_sha256=file.sha256,
    )


def _assumed(file: OnnxFile, header: ModelHeader, about: Description) -> str:
    """What was taken for granted, in a line; empty if nothing was."""
    guesses, count = [], len(header.classes)
    if header.classes[-1].name not in about.names:
        said = f" (it names {len(about.names)} of {count})" if about.names else ""
        guesses.append(f"classes called class 0 to class {count - 1}{said}")
    if about.normalisation is None:
        guesses.append("grey values fed as they are, unless normalised by the image")
    if not guesses:
        return ""
    return (
        f"{file.path} does not say all that is needed; assumed: {'; '.join(guesses)}. "
        f"Put {', '.join(KEYS)} into its metadata_props, or make a bioimage.io package of it"
    )


def _are_probabilities(result: np.ndarray) -> bool:
    inside = bool(np.all((result >= -1e-6) & (result <= 1 + 1e-6)))
    return inside and (result.shape[1] == 1 or bool(np.all(np.abs(result.sum(1) - 1) < 1e-3)))


def _prober(network: OnnxNetwork) -> Prober:
    """Random images such as the graph takes them; at two scales where that is not known."""
    scale = network.feeds
    scales = [(0.0, 1.0), (128.0, 64.0)] if scale is None else [(float(np.mean(scale.mean)), float(np.mean(scale.std)))]
    return Prober(network.run, network.file.channels, scales)
