"""Everything found out about a trained network: scores, calibration, suspects, explanation.

May import training, features, model, data, recipe, system and errors; draws nothing.
"""
