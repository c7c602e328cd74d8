"""Feature extraction: running the frozen backbone over pictures, and the cache of its outputs.

May import model, data, recipe, system and errors.
"""
