"""Evaluation of a classifier: metrics, calibration, suspect labels, explanations, comparisons.

This package may import `training` and the layers below it, but not `report`, `runs`, `run` or
`cli`.
"""
