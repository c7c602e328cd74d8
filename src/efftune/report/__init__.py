"""HTML reports, plots and images of a run or a source, written from existing results.

This package may import `evaluation` and the layers below it, but not `runs`, `run` or `cli`.
"""
