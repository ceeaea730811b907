"""OME-Zarr metadata, read and written: the one place that knows its versions."""
