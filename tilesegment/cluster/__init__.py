"""Prediction on the workers of a Dask cluster. Only this package imports dask."""

from tilesegment.cluster.cluster import Cluster
from tilesegment.cluster.workers import WAIT

__all__ = ["WAIT", "Cluster"]
