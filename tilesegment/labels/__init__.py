"""Labels as people keep them, for training and for scoring: which file goes with which, and what their values mean.

`files` pairs files by name, `label` reads label files of any kind (and makes classes of ids of objects), `scanning`
collects their values, `coding` decides what they mean.
"""
