"""Trained and imported models on images that they were not trained on."""

from flow_apps.outliers.request import OutliersRequest
from flow_apps.outliers.running import Compared, compare_on_sets

__all__ = ["Compared", "OutliersRequest", "compare_on_sets"]
