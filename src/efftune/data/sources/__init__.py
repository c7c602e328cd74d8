"""One module per kind of source, and `discovery.find`, which selects the module for a source.

These modules may import the other modules of `data`, and `recipe`, `system` and `errors`.
"""
