"""Pictures of densities, samples, tables, fits, filters, confusion and learning curves."""

from flow_apps.figures.confusion import draw_confusion
from flow_apps.figures.density import draw_density, draw_points
from flow_apps.figures.filters import draw_filters
from flow_apps.figures.fit import draw_fit
from flow_apps.figures.histogram import draw_histograms
from flow_apps.figures.images import draw_above, draw_beside, draw_images, draw_rows
from flow_apps.figures.learning import draw_learning_curve
from flow_apps.figures.pairs import draw_pairs

__all__ = [
    "draw_above",
    "draw_beside",
    "draw_confusion",
    "draw_density",
    "draw_filters",
    "draw_fit",
    "draw_histograms",
    "draw_images",
    "draw_learning_curve",
    "draw_pairs",
    "draw_points",
    "draw_rows",
]
