"""Edge-popup in plain PyTorch: find a network that classifies digits inside a random network, and train no weight.

Every weight has a score. A layer computes with the k weights of largest |score|; the gradient reaches the scores as if
that selection were the identity. Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?".
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear


class TopK(torch.autograd.Function):
    """Forward: 1 for the k largest values, 0 for the rest. Backward: the gradient passes unchanged."""

    @staticmethod
    def forward(ctx, values: Tensor, density: float) -> Tensor:
        k = values.numel() - int((1 - density) * values.numel())
        mask = torch.zeros_like(values)
        mask.view(-1)[values.flatten().argsort(descending=True, stable=True)[:k]] = 1
        return mask

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class SubnetLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, density: float) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.density, std = density, (2 / inputs) ** 0.5
        self.weight = nn.Parameter(torch.randn(outputs, inputs).sign() * std, requires_grad=False)
        self.scores = nn.Parameter(torch.empty(outputs, inputs).uniform_(-1, 1) / inputs**0.5)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight * TopK.apply(self.scores.abs(), self.density))


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch_size: int = 64) -> list[float]:
    scores = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.SGD(scores, lr=0.1, momentum=0.9, weight_decay=1e-4), []
    for _ in range(epochs):
        for batch, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            loss = cross_entropy(network(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    torch.manual_seed(0)
    pixels, digits = map(torch.from_numpy, load_digits(return_X_y=True))
    images, order = (pixels.float() - 4.9) / 6.0, torch.randperm(len(digits))
    network = nn.Sequential(SubnetLinear(64, 256, 0.5), nn.ReLU(), SubnetLinear(256, 10, 0.5))
    train(network, images[order[:1437]], digits[order[:1437]], epochs=30)
    hits = network(images[order[1437:]]).argmax(dim=1) == digits[order[1437:]]
    print(f"The subnetwork classifies {hits.float().mean():.1%} of {len(hits)} test digits; no weight was trained.")
