"""Objects of a mask of any size: numbered, measured and outlined as if the whole mask were labelled at once."""
