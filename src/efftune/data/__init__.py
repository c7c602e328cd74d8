"""Pictures and their labels: sources, examples, splits, inspection, decoding and augmentation.

May import recipe, system and errors.
"""
