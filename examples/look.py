"""Find a subnetwork and look at its mask: which pixels does it read?

Each pixel has 256 weights in the first layer. A mask by chance keeps a tenth of them for every pixel; the mask that is
found keeps more of them where digits differ, and fewer at the edges, where most pixels are empty.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import lightning_subnets as ls

torch.manual_seed(0)
pixels, digits = map(torch.from_numpy, load_digits(return_X_y=True))
images = (pixels.float() - 4.9) / 6.0

network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
ls.mask_(network, ls.EdgePopup(density=0.1), weights="signed_constant", seed=0)
optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=3e-3)
for _ in range(30):
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        cross_entropy(network(images[batch]), digits[batch]).backward()
        optimizer.step()

kept = ls.masks(network)["0.weight"].float().mean(dim=0).view(8, 8)  # of each pixel's weights
edges, middle = kept[:, [0, 7]].mean(), kept[1:7, 2:6].mean()
print(f"The mask keeps {edges:.1%} of the weights at the left and right edge, and {middle:.1%} in the middle.")
figure, axes = plt.subplots(1, 2, figsize=(5.4, 2.5), layout="constrained")
axes[0].imshow(images.mean(dim=0).view(8, 8).numpy(), cmap="gray_r")
axes[0].set_title("mean of all digits", fontsize=11)
figure.colorbar(axes[1].imshow(kept.numpy(), cmap="viridis"))
axes[1].set_title("weights kept, by pixel", fontsize=11)
figure.savefig("look.png", dpi=200)
