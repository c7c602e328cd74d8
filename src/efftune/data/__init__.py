"""Pictures and their labels: sources, examples, splits, inspection, decoding and augmentation.

This package may import `recipe`, `system` and `errors`, but not `model` or any layer above it.
"""
