"""The frozen backbone run over pictures, and the cache of its outputs.

May import model, data, recipe, system and errors, and what lies below training only.
"""
