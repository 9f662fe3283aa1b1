"""Images and labels for a Trainer.

Start with ``images.ImageDataModule``, the base class, and ``loader.EpochLoader``, whose order is a function of
(seed, epoch) and which resumes in the middle of an epoch. ``seeded_loader`` orders a user's own DataLoader, and
``pruning_batches`` selects the images that methods of pruning at initialisation score weights on.

This room may import ``masking`` and ``errors``. scikit-learn, SciPy, Pillow and torchvision are imported inside the
functions that need them, because ``lightning`` imports this package at each start.
"""

from lightning_subnets.datamodules.cifar import CIFAR10, CIFAR100
from lightning_subnets.datamodules.digits import Digits
from lightning_subnets.datamodules.image_folder import ImageFolder
from lightning_subnets.datamodules.imagenet import ImageNet
from lightning_subnets.datamodules.tiny_imagenet import TinyImageNet

__all__ = ["CIFAR10", "CIFAR100", "Digits", "ImageFolder", "ImageNet", "TinyImageNet"]
