"""Options that several commands share."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tilesegment_cli.types import BATCH, DURATION, INTEGERS, MPP, NAMES, PRUNE, SELECT, PathType

if TYPE_CHECKING:
    from tilesegment.cluster import Cluster
    from tilesegment.stores import Options

# paths on a disk alone, and places, which may be URLs too
read_path, written_path = PathType(read=True), PathType(read=False)
read_place, written_place = PathType(read=True, urls=True), PathType(read=False, urls=True)

model = click.option(
    "--model",
    "-m",
    type=read_path,
    metavar="FILE|NAME",
    help="Model file or bundled model.  [default: the bundled one for such images]",
)
tile = click.option("--tile", type=int, metavar="PX", help="Side of the network's input.  [default: the fastest]")
halo = click.option(
    "--halo", type=int, metavar="PX", help="Context of a tile, for networks that no context makes exact."
)
prune = click.option("--prune", type=PRUNE, help="Of a U-Net++, use the head of this level: L1 to L4.")
batch = click.option("--batch", type=BATCH, default="auto", show_default=True, help="Tiles at a time.")
device = click.option("--device", default="auto", metavar="auto|cpu|cuda|cuda:N|mps", show_default=True)
precision = click.option("--precision", default="auto", metavar="auto|fp32|bf16|fp16|int8", show_default=True)
runtime = click.option(
    "--runtime", default="auto", metavar="auto|pytorch|openvino", show_default=True, help="What runs the network."
)
level = click.option("--level", type=int, default=0, show_default=True, help="Level of the image's pyramid.")
channels = click.option(
    "--channels", type=INTEGERS, help="Channels of the image that the model sees, such as 0 or 2,1,0."
)
axes = click.option(
    "--axes", metavar="zyx", help="The image's dimensions, if it does not name them: letters t z c y x."
)
select = click.option("--select", type=SELECT, help="Index of a further axis, such as t=3.")
instances = click.option(
    "--instances", is_flag=True, help="Labels are ids of single objects: read them as background and object."
)
series = click.option(
    "--series", type=click.IntRange(0), help="Which image of a file that holds several; tileseg info lists them."
)
invert = click.option("--invert", is_flag=True, help="Invert the values where a TIFF says that 0 is white.")
normalise = click.option(
    "--normalise",
    type=click.Choice(["model", "image"]),
    default="model",
    show_default=True,
    help="Scale grey values as the model says, by its training images or by percentiles of the whole image; or by the "
    "mean and spread of what is predicted.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what exists, once the new is complete.")
store_options = click.option(
    "--store-option",
    "store_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=lambda context, parameter, given: _store_options(given),
    help="How a URL is reached: endpoint, region, account, anonymous=true. Credentials come from the environment.",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")


def _store_options(given: tuple[str, ...]) -> "Options":
    from tilesegment.stores import store_options

    return store_options(given)


def together(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Join options into one decorator, in the order in which --help lists them."""
    return lambda command: functools.reduce(lambda done, option: option(done), reversed(options), command)


# at which size an image is predicted
scale = together(
    level,
    click.option(
        "--diameter",
        type=float,
        metavar="PX",
        help="Objects here are about so large: resample them to the model's size.",
    ),
    click.option("--mpp", type=MPP, help="Resample to pixels of so many micrometres, or to those of the model."),
    click.option(
        "--source-mpp", type=float, metavar="MICRONS", help="Pixel size of level 0, instead of what the file says."
    ),
)

# how objects are made of a mask: the settings of `tilesegment.objects`
objects = together(
    click.option("--classes", type=NAMES, help="Classes whose regions are objects.  [default: all but class 0]"),
    click.option("--border", metavar="CLASS", help="Class that separates objects and is given back to them."),
    click.option(
        "--grow", type=float, metavar="PX", help="Grow objects so far; with --border only over it.  [default there: 8]"
    ),
    click.option("--fill-holes", is_flag=True, help="Fill what a single object encloses."),
    click.option("--min-area", type=int, metavar="PX", help="Leave out smaller objects.  [default: the model's]"),
    click.option(
        "--touching-border",
        type=click.Choice(["keep", "drop"]),
        default="keep",
        help="Objects that touch an edge of the mask.",
    ),
    click.option(
        "--connectivity",
        type=click.Choice(["4", "8"]),
        default="4",
        callback=lambda context, parameter, value: int(value),
        help="8: pixels that meet at a corner are one object; with --3d 6 and 26.",
    ),
    click.option("--3d", "volume", is_flag=True, help="Objects go through the planes of a stack.  [default: by plane]"),
    click.option("--regions", is_flag=True, help="Objects are whole areas, such as tumour: annotations in QuPath."),
    click.option(
        "--simplify", type=float, default=0.0, metavar="PX", help="Outlines with fewer points, off by about so much."
    ),
)


@dataclass(frozen=True)
class ClusterOptions:
    """What predicts: `workers` local processes, the workers of a `scheduler`, or, with neither, this process."""

    workers_: int | None
    scheduler: str | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    dashboard: bool
    wait: float | None

    @property
    def is_wanted(self) -> bool:
        """Whether a cluster is asked for."""
        return self.workers_ is not None or self.scheduler is not None

    def check(self) -> None:
        """Refuse options that contradict each other."""
        if self.workers_ is not None and self.scheduler is not None:
            raise click.UsageError("--workers starts a cluster, --scheduler joins a running one: give one of the two")
        if self.scheduler is None and any((self.tls_ca, self.tls_cert, self.tls_key)):
            raise click.UsageError("--tls-ca, --tls-cert and --tls-key are for a --scheduler")
        if self.workers_ is None and self.dashboard:
            raise click.UsageError("--dashboard is for --workers; a running scheduler has its own")
        if not self.is_wanted and self.wait is not None:
            raise click.UsageError("--wait is for --workers and --scheduler: how long there may be no worker")

    def workers(self, quiet: bool) -> AbstractContextManager["Cluster | None"]:
        """Start or join the cluster; None for this process."""
        if not self.is_wanted:
            return nullcontext()
        from tilesegment.cluster import WAIT, Cluster

        wait = WAIT if self.wait is None else self.wait
        if self.workers_ is not None:
            cluster = Cluster.start(self.workers_, dashboard=self.dashboard, wait=wait)
        else:
            assert self.scheduler is not None
            cluster = Cluster.join(self.scheduler, self.tls_ca, self.tls_cert, self.tls_key, wait=wait)
        if not quiet:
            click.echo(cluster.describe(), err=True)
        return cluster


_CLUSTER = together(
    click.option("--workers", "workers_", type=click.IntRange(1, 1024), help="Work in this many local processes."),
    click.option("--scheduler", type=read_place, metavar="tcp://...|FILE", help="Work on a running Dask cluster."),
    click.option("--tls-ca", type=read_path, metavar="PEM", help="For tls://: who signed the scheduler's certificate."),
    click.option("--tls-cert", type=read_path, metavar="PEM", help="Certificate of this client."),
    click.option("--tls-key", type=read_path, metavar="PEM", help="Its key."),
    click.option("--dashboard", is_flag=True, help="With --workers: serve Dask's dashboard (needs bokeh)."),
    click.option(
        "--wait", type=DURATION, metavar="5m", help="Give up after so long without any worker.  [default: 5m]"
    ),
)


def cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Collect the options of a Dask cluster into one argument of the command: `cluster`."""

    @functools.wraps(command)
    def collected(**given: Any) -> Any:
        its = {name: given.pop(name) for name in ClusterOptions.__dataclass_fields__}
        return command(cluster=ClusterOptions(**its), **given)

    return _CLUSTER(collected)
