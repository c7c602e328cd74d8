"""Networks: the catalogue, architectures, weights, backbones and classifiers.

May import data, recipe, system and errors. Only `engines` imports OpenVINO; Keras is imported where
a network is built, so that prediction does not need a training framework.
"""

import os

# TensorFlow logs what processor it runs on to stderr, in the middle of progress bars. It reads this
# when it is loaded. Warnings and errors are still shown.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
