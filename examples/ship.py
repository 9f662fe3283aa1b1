"""Ship a subnetwork: load its small file as a plain network, export it, and run it without PyTorch.

    python examples/ship.py results/zoo/digits_conv2.subnet

``subnets export`` does the same in one command, and writes classes and preprocessing into the file.
"""

import sys
from pathlib import Path

import onnxruntime
import torch

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits

path = Path(sys.argv[1])
network = ls.load_subnet(path)  # draws the weights again from the seed; those outside the mask are 0
size = sum(4 * each.numel() for each in network.parameters())
print(f"{path.name} has {path.stat().st_size:,} bytes, and its weights have {size:,}.")

data = Digits(batch_size=360)
data.setup("test")
images, digits = next(iter(data.test_dataloader()))
images = data.normalize(images)
torch.onnx.export(
    network, (images,), "digits.onnx", input_names=["images"], dynamic_shapes=({0: "batch"},), verbose=False
)
(logits,) = onnxruntime.InferenceSession("digits.onnx").run(None, {"images": images.numpy()})

difference = abs(logits - network(images).detach().numpy()).max()
print(f"onnxruntime classifies {(logits.argmax(axis=1) == digits.numpy()).mean():.1%} of {len(digits)} test digits.")
print(f"Its logits differ from PyTorch's by {difference:.0e} at most.")
