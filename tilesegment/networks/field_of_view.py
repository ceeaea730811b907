"""The field of view of any network: the context that makes its tiles exact.

What a network decides at a pixel must not depend on where the tile ends, which takes a halo, nor on where it starts,
which takes tiles that start at multiples of the divisor. The networks of this package compute both by arithmetic; for
any other they are measured by running it (`probing`). No halo makes up for statistics of the tile, attention over it or
positions in it: such a network is refused unless a halo is chosen.
"""

from typing import TypeGuard

from torch import nn

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.networks.any_network import AnyNetwork
from tilesegment.networks.network import Network
from tilesegment.networks.probing import LARGEST, InexactError, Prober, widened
from tilesegment.networks.torch_run import TorchRun

ADVICE = "; choose a --halo to accept seams"  # ends the message about a network without an exact halo


def derive(network: nn.Module, in_channels: int | None = None, claimed: FieldOfView | None = None) -> FieldOfView:
    """Find the context that makes a network's tiles exact.

    If the output is as large as the input, halo and tile are multiples of the divisor. If the network crops, `after`
    includes the surplus output of the allowed input sizes.

    Args:
        network: (B, C, H, W) -> (B, K, h, w) at the same resolution, in evaluation mode. Left unchanged.
        in_channels: C; None is that of its first convolution.
        claimed: what a model file says; used if tiles are exact with it.

    Raises:
        ModelError: no halo makes it exact (the message says why), or it is no such network.
    """
    causes = suspects(network)
    named = causes[0] + (f" (and {len(causes) - 1} more such)" if len(causes) > 1 else "") if causes else ""
    if _is_ours(network):
        if causes:
            raise ModelError(f"no halo makes this network seamless: {named}{ADVICE}")
        return network.field_of_view
    try:
        prober = prober_of(network, in_channels)
        return claimed if claimed is not None and prober.holds(claimed) else prober.view()
    except InexactError as error:
        seen = f"{error}: {named}" if causes else str(error)
        raise ModelError(f"no halo makes this network seamless: {seen}{ADVICE}") from error


def chosen(
    network: nn.Module, halo: int, in_channels: int | None = None, claimed: FieldOfView | None = None
) -> FieldOfView:
    """Return the field of view with a chosen halo in pixels, rounded up to the divisor; tiles may be inexact.

    Raises:
        ModelError: the halo is negative, the network crops, so that its halo is fixed, or it cannot be run.
    """
    if halo < 0:
        raise ModelError(f"a halo of {halo} px; it is 0 or more")
    known = network.field_of_view if _is_ours(network) else claimed
    return prober_of(network, in_channels).chosen(halo) if known is None else widened(known, halo)


def suspects(network: nn.Module) -> list[str]:
    """Describe the modules whose class shows that they depend on the whole tile: path, class, and what they do."""
    found = []
    for name, module in network.named_modules():
        words = ""
        statistics = isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is None
        if statistics or isinstance(module, nn.GroupNorm):
            words = "normalises by the statistics of the tile"
        elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            words = "pools the whole tile to a fixed size"
        elif isinstance(module, nn.Upsample) and module.align_corners:
            words = "lays its corners on the tile's (align_corners=True)"
        elif isinstance(module, nn.MultiheadAttention):
            words = "compares all positions of the tile (attention)"
        if words:
            found.append(f"{name or 'the network'} ({type(module).__name__}) {words}")
    return found


def prober_of(network: nn.Module, in_channels: int | None = None) -> Prober:
    """Build a prober for a copy of the network, on the CPU.

    Raises:
        InexactError: a convolution reaches farther than the images that are tried.
        ModelError: it cannot be copied, or its channels are unknown.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            reach = max(d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
            if reach > LARGEST:
                raise InexactError(f"{name or 'the network'} (Conv2d) reaches over {reach} px of its input")
    channels = channels_of(network, in_channels)
    run = TorchRun(network, channels)
    return Prober(run, channels, [(0.0, 1.0)], run.exact, run.shape)


def channels_of(network: nn.Module, in_channels: int | None = None) -> int:
    """Return `in_channels`, or if None the input channels of the first convolution."""
    if in_channels is not None:
        return in_channels
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ModelError("the network has no convolution to tell its input channels by; give in_channels")


def side_of(view: FieldOfView, least: int = 64) -> int:
    """Return an image side that a network with this field of view takes, for at least `least` pixels of output."""
    step = view.step_for(least)
    # without cropping, the halo is needed only for exact tiles
    return view.tile_of(step) if view.crops else step + (view.after - view.before) % view.divisor


def _is_ours(network: nn.Module) -> TypeGuard[Network]:
    return isinstance(network, Network) and not isinstance(network, AnyNetwork)
