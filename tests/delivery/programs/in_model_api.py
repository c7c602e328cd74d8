"""Classify pictures by Model API: python in_model_api.py MODEL PICTURE…, in its own environment.

Prints one JSON object, from each path to the score of each class.
"""

import json
import sys

import numpy as np
from model_api.models import Model
from PIL import Image, ImageOps

path, *pictures = sys.argv[1:]
model = Model.create_model(path)
labels = model.params.labels
found = {}
for picture in pictures:
    with Image.open(picture) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    result = model(pixels)
    found[picture] = dict(zip(labels, map(float, result.raw_scores.reshape(-1)), strict=True))
    assert result.top_labels[0].name == max(found[picture], key=found[picture].get)
json.dump(found, sys.stdout)
