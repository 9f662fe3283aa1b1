"""Callbacks: those that every ``SubnetModule`` adds by itself, and those that a config can add."""

from lightning_subnets.training.callbacks.averaging import Averaging
from lightning_subnets.training.callbacks.best_checkpoint import BestCheckpoint
from lightning_subnets.training.callbacks.collapse import Collapse
from lightning_subnets.training.callbacks.divergence import Divergence
from lightning_subnets.training.callbacks.frozen import Frozen
from lightning_subnets.training.callbacks.gradient_norm import GradientNorm
from lightning_subnets.training.callbacks.gradual_density import GradualDensity
from lightning_subnets.training.callbacks.iterative_pruning import IterativePruning
from lightning_subnets.training.callbacks.last_checkpoint import LastCheckpoint
from lightning_subnets.training.callbacks.mask_statistics import MaskStatistics
from lightning_subnets.training.callbacks.own_loader import OwnLoader
from lightning_subnets.training.callbacks.predictions import Predictions
from lightning_subnets.training.callbacks.progress import Progress
from lightning_subnets.training.callbacks.rank_consistency import RankConsistency
from lightning_subnets.training.callbacks.score_histograms import ScoreHistograms
from lightning_subnets.training.callbacks.throughput import Throughput

__all__ = [
    "Averaging",
    "BestCheckpoint",
    "Collapse",
    "Divergence",
    "Frozen",
    "GradientNorm",
    "GradualDensity",
    "IterativePruning",
    "LastCheckpoint",
    "MaskStatistics",
    "OwnLoader",
    "Predictions",
    "Progress",
    "RankConsistency",
    "ScoreHistograms",
    "Throughput",
]
