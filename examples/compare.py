"""Compare two methods by density: train scores of random weights, or choose a mask first and train its weights."""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import lightning_subnets as ls

pixels, digits = map(torch.from_numpy, load_digits(return_X_y=True))
images, order = (pixels.float() - 4.9) / 6.0, torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
training, test = order[:1437], order[1437:]


def accuracy(method: ls.Method) -> float:
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    ls.mask_(network, method, weights="kaiming_normal", seed=0, batches=[(images[training], digits[training])])
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    for epoch in range(10):
        for batch in training[torch.randperm(1437, generator=torch.Generator().manual_seed(epoch))].split(64):
            loss = cross_entropy(network(images[batch]), digits[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (network(images[test]).argmax(dim=1) == digits[test]).float().mean().item()


axes = plt.figure(figsize=(5.4, 4), layout="constrained").subplots()
densities = [0.02, 0.05, 0.1, 0.3, 0.5]
for kind in (ls.EdgePopup, ls.SNIP):
    found = [accuracy(kind(density=density)) for density in densities]
    print(f"{kind.__name__:9}", *(f"{density:.0%}: {each:.1%}" for density, each in zip(densities, found, strict=True)))
    axes.semilogx(densities, found, "o-", label=kind.__name__)
axes.set(xlabel="density", ylabel="test accuracy")
axes.set_xticks(densities, densities)
axes.minorticks_off()
axes.legend()
plt.savefig("compare.png", dpi=200)
