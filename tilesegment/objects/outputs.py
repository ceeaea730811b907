"""Outputs of objects by name: label images, tables and outlines; checked before the work, written whole."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tilesegment.errors import MaskError, PlanError
from tilesegment.files import replacing
from tilesegment.masks import MaskSpec, MaskWriter, create_objects, is_complete
from tilesegment.masks.blocks import reporting
from tilesegment.masks.home import check_free
from tilesegment.masks.spec import RESAMPLED, differing
from tilesegment.masks.target import OBJECTS, objects_target, partial_name, read_record
from tilesegment.objects.batches import Batch, Placement
from tilesegment.objects.plan import ObjectPlan, first_pixel
from tilesegment.objects.settings import ObjectSettings
from tilesegment.objects.tables import check_name, objects_writer, suffix_of
from tilesegment.objects.work import Ending
from tilesegment.stores import is_url

Write = Callable[[Batch], None]

_CHUNK = 512  # side in pixels of the chunks of a label image


@dataclass(frozen=True)
class ObjectOutputs:
    """Where objects are written.

    Attributes:
        labels: OME-Zarr label images.
        files: tables and outlines.
        overwrite: replace what is there, once the new is complete.
        ngff: OME-Zarr version of a label image on its own.
    """

    labels: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    overwrite: bool = False
    ngff: str = "0.5"

    @classmethod
    def of(cls, paths: Iterable[str | Path], *, overwrite: bool = False, ngff: str = "0.5") -> "ObjectOutputs":
        """Sort outputs by their names.

        Raises:
            PlanError: two have one name.
            MaskError: a name is a URL or does not say what to write, its folder does not exist, or a library is missing
                for it.
        """
        if urls := [path for path in paths if is_url(path)]:
            raise MaskError(f"objects cannot be written to {urls[0]}, in a store: write them to a disk, then copy them")
        named = [Path(os.path.abspath(path)) for path in paths]
        if len(set(named)) < len(named):
            raise PlanError(f"{', '.join(map(str, paths))}: one file is named twice; give each output its own name")
        # a folder of any files may be called `labels`, too
        labels = tuple(path for path in named if path.suffix.lower() == ".zarr" or _is_label_of_image(path))
        files = tuple(path for path in named if path not in labels)
        for path in files:
            check_file(path, overwrite=True)
        return cls(labels, files, overwrite, ngff)

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them."""
        return self.labels + self.files

    @property
    def outlined(self) -> bool:
        """Whether any holds outlines."""
        return any(map(_is_outlined, self.files))

    def check(self, mask: str, image: str | None) -> None:
        """Refuse outputs that are what is read, hold it or lie in it; labels of the image may.

        Raises:
            PlanError: one does.
        """
        for path in self.all:
            real = Path(os.path.realpath(path))
            for read in (mask, image):
                if read is None:
                    continue
                source = Path(os.path.realpath(read))
                if real == source or real in source.parents:
                    raise PlanError(f"{path} is what is read, or holds it; name another output")
                is_its_label = read == image and path in self.labels and real.parent.parent == source
                if source in real.parents and not is_its_label:
                    raise PlanError(f"{path} lies in {read}, which is read; name an output elsewhere")

    def check_free(self, plan: ObjectPlan, spec: MaskSpec, before: Ending | None) -> None:
        """Check that the outputs may be written, those excepted that an earlier run for the plan has written.

        Args:
            plan, spec: what is written, and about which mask.
            before: how the earlier run ended.

        Raises:
            MaskError: one exists and may not be replaced, or cannot be written.
        """
        made = labels_spec(plan, spec)
        for path in self.labels:
            target = objects_target(path, made, self.ngff)
            with reporting("read", path):
                there = read_record(path)
            if there is None or differing(there, target.record(made, "complete")):
                check_free(target, made, self.overwrite)
                begun = _partial_name(path)
                if begun.exists() and not (self.overwrite or _is_of_objects(begun)):
                    raise MaskError(f"{begun} is a mask in progress; name another output, or delete it")
        for path in self.files:
            check_file(path, overwrite=self.overwrite or (before is not None and before.wrote(path)))

    def found(self, plan: ObjectPlan, spec: MaskSpec, before: Ending | None) -> Ending | None:
        """Return what the outputs hold, if an earlier run for the plan has completed all of them; else None."""
        if not self.all or (self.files and (before is None or not all(map(before.wrote, self.files)))):
            return None
        made = labels_spec(plan, spec)
        for path in self.labels:
            if not is_complete(path, made, ngff=self.ngff, objects=True):
                return None
            told = (read_record(path) or {}).get("provenance", {})
            before = before or Ending(int(told.get("objects", 0)), dict(told.get("objects_by_class", {})), {})
        return before

    def begin(self, plan: ObjectPlan, spec: MaskSpec) -> list[MaskWriter]:
        """Create the label images that are not complete yet, or go on with them."""
        made = labels_spec(plan, spec)
        return [
            self._create(path, made)
            for path in self.labels
            if self.overwrite or not is_complete(path, made, ngff=self.ngff, objects=True)
        ]

    def _create(self, path: Path, made: MaskSpec) -> MaskWriter:
        """Create one label image; ids of other objects that are in progress there are replaced, as work folders are."""
        begun = _partial_name(path)
        discard = self.overwrite or (not path.exists() and _is_of_objects(begun))
        return replace(create_objects(path, made, ngff=self.ngff, overwrite=discard), overwrite=self.overwrite)


def settled_by(plan: ObjectPlan, settings: ObjectSettings) -> str:
    """Return all that decides the outputs."""
    return f"{plan.to_json()} regions {settings.regions} simplify {settings.simplify!r}"


def labels_spec(plan: ObjectPlan, spec: MaskSpec) -> MaskSpec:
    """Return the spec of a label image of the objects of a mask."""
    block = plan.block
    chunk = _CHUNK if block % _CHUNK == 0 else block
    provenance = {"mask": plan.mask, "image": spec.provenance.get("image")}
    fingerprint = {"objects": plan.fingerprint}
    for name in ("image", "shape", "level", "planes", "region", "axes", "select", "series", "invert", RESAMPLED):
        if name in spec.fingerprint:  # where it lies in which image
            fingerprint[name] = spec.fingerprint[name]  # type: ignore[assignment]
    return replace(spec, block=block, chunk=chunk, fingerprint=fingerprint, provenance=provenance)


def placement_of(spec: MaskSpec) -> Placement | None:
    """Return where the mask lies in level 0 of the image; None if its pixels are those of level 0."""
    placement = Placement(first_pixel(spec), spec.scale)
    return None if placement == Placement() else placement


def _partial_name(path: Path) -> Path:
    begun = partial_name(path)
    assert isinstance(begun, Path)
    return begun


def _is_of_objects(partial: Path) -> bool:
    """Whether a folder is a label image of objects in progress."""
    layout = (read_record(partial) or {}).get("layout")
    return isinstance(layout, dict) and layout.get("values") == OBJECTS


def _is_label_of_image(path: Path) -> bool:
    return path.parent.name == "labels" and suffix_of(path) is None


def _is_outlined(path: Path) -> bool:
    return suffix_of(path) != ".csv"


def check_file(path: Path, *, overwrite: bool) -> None:
    """Check that a table or outlines can be written to `path`.

    Raises:
        MaskError: as `check_name`, or it exists and may not be replaced.
    """
    check_name(path)
    if path.is_symlink():
        raise MaskError(f"{path} is a symbolic link and is not written through; name the file that it points to")
    if path.is_dir():
        raise MaskError(f"{path} is a folder and is not replaced; name another output")
    if path.exists() and not overwrite:
        raise MaskError(f"{path} exists; name another output, or use --overwrite to replace it")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise MaskError(f"cannot write {path}: its folder cannot be written to; name another")


@contextmanager
def writing(
    outputs: ObjectOutputs,
    plan: ObjectPlan,
    spec: MaskSpec,
    once_whole: Callable[[Mapping[Path, Path]], None],
    *,
    regions: bool,
) -> Iterator[tuple[list[Write], list[Write]]]:
    """Open the files; yield what writes a batch to those without outlines, and to those with them.

    Once all are whole, `once_whole` is called with the final name of each; then all get theirs.

    Raises:
        MaskError: one cannot be written.
    """
    colours = {one.name: one.rgb for one in spec.classes}
    with reporting("write", outputs.files[0].parent), ExitStack() as names:
        temporaries = names.enter_context(replacing(*outputs.files))
        plain: list[Write] = []
        with_outlines: list[Write] = []
        with ExitStack() as stack:
            for path, temporary in zip(outputs.files, temporaries, strict=True):
                writer = objects_writer(
                    path,
                    temporary,
                    fingerprint=plan.run,
                    object_type="annotation" if regions else "detection",
                    colours=colours,
                    placement=placement_of(spec),
                )
                (with_outlines if _is_outlined(path) else plain).append(stack.enter_context(writer).write)
            yield plain, with_outlines
        once_whole(dict(zip(temporaries, outputs.files, strict=True)))
