"""Classify pictures by MediaPipe: python in_mediapipe.py MODEL PICTURE…, in its own environment.

Prints one JSON object, from each path to the score of each class.
"""

import json
import sys

import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision

model, *paths = sys.argv[1:]
options = vision.ImageClassifierOptions(
    base_options=BaseOptions(model_asset_path=model), score_threshold=1e-9
)
found = {}
with vision.ImageClassifier.create_from_options(options) as classifier:
    for path in paths:
        (answer,) = classifier.classify(mp.Image.create_from_file(path)).classifications
        found[path] = {each.category_name: each.score for each in answer.categories}
json.dump(found, sys.stdout)
