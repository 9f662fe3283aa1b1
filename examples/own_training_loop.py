"""Use the library in a training loop of your own: PyTorch and the digits of scikit-learn, without Lightning.

The weights stay as they were drawn. The optimizer trains one score for each weight, and the network computes with the
half of each layer's weights that has the highest |scores|.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import lightning_subnets as ls

torch.manual_seed(0)
pixels, digits = map(torch.from_numpy, load_digits(return_X_y=True))
images, order = (pixels.float() - 4.9) / 6.0, torch.randperm(len(digits))
training, test = order[:1437], order[1437:]

network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
ls.mask_(network, ls.EdgePopup(density=0.5), weights="signed_constant", seed=0)
scores = [parameter for parameter in network.parameters() if parameter.requires_grad]
optimizer = torch.optim.SGD(scores, lr=0.1, momentum=0.9, weight_decay=1e-4)

for _ in range(30):
    for batch in training[torch.randperm(len(training))].split(64):
        loss = cross_entropy(network(images[batch]), digits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

kept = ls.density(network)
ls.unmask_(network)  # the same function as a plain network: the weights outside the mask are 0
accuracy = (network(images[test]).argmax(dim=1) == digits[test]).float().mean()
print(f"With {kept:.0%} of its random weights the network classifies {accuracy:.1%} of {len(test)} test digits.")
