"""Networks: the catalogue, architectures, weights, backbones and classifiers.

May import data, recipe, system and errors. Only `engines` imports OpenVINO; Keras is imported where
a network is built, so that prediction does not need a training framework.
"""
