"""ResNets in which one block is applied several times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.networks.small_stem import small_stem_
from lightning_subnets.networks.width import scaled

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck


class Shape(NamedTuple):
    """The shape of one of torchvision's ResNets."""

    block: str  # a class of torchvision
    blocks: tuple[int, int, int, int]  # of each stage
    base_width: int = 64  # 128 for a bottleneck of twice the width


SHAPES = {
    "resnet34": Shape("BasicBlock", (3, 4, 6, 3)),
    "resnet50": Shape("Bottleneck", (3, 4, 6, 3)),
    "resnet101": Shape("Bottleneck", (3, 4, 23, 3)),
    "resnet152": Shape("Bottleneck", (3, 8, 36, 3)),
    "wide_resnet50_2": Shape("Bottleneck", (3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": Shape("Bottleneck", (3, 4, 23, 3), base_width=128),
}


class FoldedBlock(nn.Module):
    """A residual block that is applied several times, each time with other batch norms.

    Args:
        block: a block without stride and without a shortcut of its own; its convolutions are used, its norms are not.
        times: number of iterations.
    """

    def __init__(self, block: BasicBlock | Bottleneck, times: int) -> None:
        super().__init__()
        convs = [each for each in block.children() if isinstance(each, nn.Conv2d)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in convs) for _ in range(times)
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        for norms in self.norms:
            residual = features
            for index, (conv, norm) in enumerate(zip(self.convs, norms.children(), strict=True)):
                residual = norm(conv(self.relu(residual) if index else residual))
            features = self.relu(features + residual)
        return features


class FoldedResNet(nn.Module):
    """A ResNet in which the blocks of a stage, except the first, share one weight, and so one mask: Hidden-Fold.

    The first block of a stage stands alone, because it changes the number of channels or pixels (except in the first
    stage of a ResNet-34). The n - 1 blocks after it become one block f, which is applied n - 1 times; each iteration
    has batch norms of its own::

        x_{i+1} = relu(x_i + f(x_i; W, m, norm_i)),    i = 1, ..., n - 1

    f is the residual of torchvision's ``BasicBlock`` or ``Bottleneck`` with the weights W m. The gradient of a score
    is the sum of its gradients in the iterations. Masks, state dicts, ``.subnet`` files and ONNX files hold W once.

    Folded in all stages, with 1,000 classes, a ResNet-34 has 11,678,912 weights instead of 21,779,648, and a ResNet-50
    15,963,328 instead of 25,502,912. The multiply-adds for an image of 224 pixels stay: 3.66 and 4.09 billion.

    Args:
        name: the ResNet that is folded. ResNet-18 has one block after the first, so it has nothing to share.
        num_classes: number of outputs; the width does not scale it.
        in_channels: channels of an image.
        width_multiplier: scales every number of channels.
        small_stem: whether the stem is the one of ``small_stem_resnet``, for images of 64 pixels or fewer.
        folded_stages: the stages that are folded, from 1 to 4. A stage that is not folded is torchvision's.

    Raises:
        ValueError: if the ResNet or a stage does not exist, or the width leaves a layer without channels.
    Source: Lopez Garcia-Arias et al. 2021, "Hidden-Fold Networks: Random Recurrent Residuals Using Sparse Supermasks".
        Different here: all four stages are folded by default; the authors' public configurations fold (3, 4).
    """

    def __init__(
        self,
        name: str = "resnet34",
        num_classes: int = 10,
        in_channels: int = 3,
        width_multiplier: float = 1.0,
        small_stem: bool = False,
        folded_stages: tuple[int, ...] = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        if name not in SHAPES:
            raise UserError(f"name = {name!r} is not a ResNet that can be folded: use {', '.join(SHAPES)}")
        if not {*folded_stages} <= {1, 2, 3, 4}:
            raise UserError(f"folded_stages = {[*folded_stages]} names a stage that is not 1, 2, 3 or 4")
        shape, stages, inputs = SHAPES[name], [], scaled(64, width_multiplier, type(self).__name__)
        self.conv1 = nn.Conv2d(in_channels, inputs, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        if small_stem:
            small_stem_(self)
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), shape.blocks, strict=True), start=1):
            width = scaled(width, width_multiplier, type(self).__name__)
            first = _block(shape, inputs, width, stride=1 if stage == 1 else 2)
            inputs = width * first.expansion
            if stage in folded_stages:
                others = [FoldedBlock(_block(shape, inputs, width), count - 1)]
            else:
                others = [_block(shape, inputs, width) for _ in range(count - 1)]
            stages.append(nn.Sequential(first, *others))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


def _block(shape: Shape, inputs: int, width: int, stride: int = 1) -> BasicBlock | Bottleneck:
    """Return a block of torchvision; its shortcut has a 1x1 convolution if the number of channels or pixels changes."""
    from torchvision.models import resnet

    block = getattr(resnet, shape.block)
    outputs, shortcut = width * block.expansion, None
    if stride > 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return block(inputs, width, stride, shortcut, base_width=shape.base_width)
