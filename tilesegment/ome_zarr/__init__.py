"""OME-Zarr: its metadata, the names of its chunks, how arrays are opened."""
