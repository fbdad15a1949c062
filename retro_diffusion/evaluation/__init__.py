"""How far samples are from data: distances, features, manifolds, and the floor to read them against."""

from retro_diffusion.evaluation.distances import (
    energy_distance,
    median_bandwidth,
    mmd,
    nn_distance,
    sliced_wasserstein,
)
from retro_diffusion.evaluation.features import (
    SmallClassifier,
    frechet_distance,
    pca_features,
    train_classifier,
)
from retro_diffusion.evaluation.manifolds import (
    ModeStats,
    PrecisionRecall,
    in_class_diversity,
    mode_stats,
    precision_recall,
)
from retro_diffusion.evaluation.measurement import Measurement, label_matched, measure

__all__ = [
    "Measurement",
    "ModeStats",
    "PrecisionRecall",
    "SmallClassifier",
    "energy_distance",
    "frechet_distance",
    "in_class_diversity",
    "label_matched",
    "measure",
    "median_bandwidth",
    "mmd",
    "mode_stats",
    "nn_distance",
    "pca_features",
    "precision_recall",
    "sliced_wasserstein",
    "train_classifier",
]
