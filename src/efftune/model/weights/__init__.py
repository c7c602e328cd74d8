"""Pretrained weights: downloading and verifying them, and reading the files that people have.

May import the catalogue, system and errors; the readers import Keras.
"""
