"""Pictures of whole images of any size: previews with a mask or objects on top, and heat maps of probabilities."""

from tilesegment.preview.heatmap import Heatmap, class_to_show
from tilesegment.preview.overview import draw_overview, draw_preview, mask_digest

__all__ = ["Heatmap", "class_to_show", "draw_overview", "draw_preview", "mask_digest"]
