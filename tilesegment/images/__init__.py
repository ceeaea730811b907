"""Images that are read lazily, region by region; `formats` lists the formats."""

from tilesegment.images.formats import IMAGE_SUFFIXES, begins_as_image, is_image_folder, open_channels, open_image
from tilesegment.images.resampled import ResampledSource
from tilesegment.images.source import ImageSource, Level, announce_mirrored, read_mirrored
from tilesegment.images.unread import unread_among, unread_format
from tilesegment.ome_zarr.node import is_zarr

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageSource",
    "Level",
    "ResampledSource",
    "announce_mirrored",
    "begins_as_image",
    "is_image_folder",
    "is_zarr",
    "open_channels",
    "open_image",
    "read_mirrored",
    "unread_among",
    "unread_format",
]
