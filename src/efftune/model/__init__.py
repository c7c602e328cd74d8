"""Networks: the catalogue, architectures, weights, backbones and classifiers.

May import data, recipe, system and errors. Only `engines` imports OpenVINO; Keras is imported where
a network is built, so that predicting needs no training framework.
"""
