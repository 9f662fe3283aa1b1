"""What happens beside the training step."""

from lightning_subnets.callbacks.averaging import Averaging
from lightning_subnets.callbacks.collapse import Collapse
from lightning_subnets.callbacks.divergence import Divergence
from lightning_subnets.callbacks.frozen import Frozen
from lightning_subnets.callbacks.gradient_norm import GradientNorm
from lightning_subnets.callbacks.iterative_pruning import IterativePruning
from lightning_subnets.callbacks.last_checkpoint import LastCheckpoint
from lightning_subnets.callbacks.mask_statistics import MaskStatistics
from lightning_subnets.callbacks.own_loader import OwnLoader
from lightning_subnets.callbacks.predictions import Predictions
from lightning_subnets.callbacks.progress import Progress
from lightning_subnets.callbacks.ranks import Ranks
from lightning_subnets.callbacks.score_histograms import ScoreHistograms
from lightning_subnets.callbacks.throughput import Throughput

__all__ = [
    "Averaging",
    "Collapse",
    "Divergence",
    "Frozen",
    "GradientNorm",
    "IterativePruning",
    "LastCheckpoint",
    "MaskStatistics",
    "OwnLoader",
    "Predictions",
    "Progress",
    "Ranks",
    "ScoreHistograms",
    "Throughput",
]
