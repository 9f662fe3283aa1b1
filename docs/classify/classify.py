"""Name what a photo shows: python classify.py net.onnx photo.jpg."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

network, photo = sys.argv[1:]
session = onnxruntime.InferenceSession(network)
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
_, height, width = about["preprocessing"]["input_shape"]
mean, std = (np.array(about["preprocessing"][key], np.float32) for key in ("mean", "std"))

pixels = ImageOps.fit(Image.open(photo).convert("RGB"), (width, height))  # the largest part of this shape
images = ((np.asarray(pixels, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[np.newaxis]
(logits,) = session.run(["logits"], {"images": images})
probabilities = np.exp(logits[0] - logits[0].max())
probabilities /= probabilities.sum()
for index in np.argsort(-probabilities)[:3]:
    print(f"{probabilities[index]:6.1%}  {about['classes'][index]}")
