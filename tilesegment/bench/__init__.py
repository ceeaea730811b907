"""How fast this machine predicts, what of it the network takes, and with which settings it would be faster."""

from tilesegment.bench.measuring import Bench, bench
from tilesegment.bench.sweep import Trial

__all__ = ["Bench", "Trial", "bench"]
