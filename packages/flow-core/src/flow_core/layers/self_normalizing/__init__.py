"""Self Normalizing Flows (Keller et al. 2021): layers that learn their inverse."""

from flow_core.layers.self_normalizing.geco import Geco
from flow_core.layers.self_normalizing.layers import SelfNormConv2d, SelfNormLinear
from flow_core.layers.self_normalizing.surrogate import (
    Reconstruction,
    SurrogateTerms,
    TrainingSurrogate,
)

__all__ = [
    "Geco",
    "Reconstruction",
    "SelfNormConv2d",
    "SelfNormLinear",
    "SurrogateTerms",
    "TrainingSurrogate",
]
