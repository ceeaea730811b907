"""Label files, for training and scoring: which file belongs to which, and what their values mean.

`files` pairs files by name, `label` reads label files of any kind (and turns object ids into classes), `scanning`
collects their values, `coding` decides what the values mean. `geojson` reads outlines of objects, `outlines` turns them
into label images.
"""
