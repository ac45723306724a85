"""Pictures of densities, samples, fits, filters and learning curves."""

from flow_apps.figures.density import draw_density, draw_points
from flow_apps.figures.filters import draw_filters
from flow_apps.figures.fit import draw_fit
from flow_apps.figures.images import draw_images
from flow_apps.figures.learning import draw_learning_curve

__all__ = [
    "draw_density",
    "draw_filters",
    "draw_fit",
    "draw_images",
    "draw_learning_curve",
    "draw_points",
]
