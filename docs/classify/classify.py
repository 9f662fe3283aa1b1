"""Name what a photo shows: python classify.py net.onnx photo.jpg."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

network, file = sys.argv[1:]
session = onnxruntime.InferenceSession(network)
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
_, height, width = about["preprocessing"]["input_shape"]
mean, std = (np.array(about["preprocessing"][key], np.float32) for key in ("mean", "std"))

photo = Image.open(file)
if photo.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip
    photo = Image.fromarray(np.rint(np.asarray(photo) * (255 / 65535)).clip(0, 255).astype(np.uint8))
photo = photo.convert("RGB")
shorter = about["preprocessing"].get("resize", max(height, width))  # side of the photo that the centre is cut out of
photo = photo.resize([shorter * side // min(photo.size) for side in photo.size], Image.Resampling.BILINEAR)
left, top = round((photo.width - width) / 2), round((photo.height - height) / 2)
photo = photo.crop((left, top, left + width, top + height))
images = ((np.asarray(photo, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[np.newaxis]
(logits,) = session.run(["logits"], {"images": images})
probabilities = np.exp(logits[0] - logits[0].max())
probabilities /= probabilities.sum()
for index in np.argsort(-probabilities)[:3]:
    print(f"{probabilities[index]:6.1%}  {about['classes'][index]}")
