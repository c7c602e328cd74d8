"""Pretrained weights: downloading and verifying published files, and reading users' own files.

May import the catalogue, system and errors; the readers import Keras.
"""
