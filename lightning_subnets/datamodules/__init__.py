"""Images and labels for the Trainer."""

from lightning_subnets.datamodules.cifar import CIFAR10, CIFAR100
from lightning_subnets.datamodules.digits import Digits
from lightning_subnets.datamodules.imagenet import ImageNet
from lightning_subnets.datamodules.tiny_imagenet import TinyImageNet

__all__ = ["CIFAR10", "CIFAR100", "Digits", "ImageNet", "TinyImageNet"]
