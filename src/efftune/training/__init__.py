"""Planning a run, and training: views, stages, heads, and the networks that stages train.

May import features, model, data, recipe, system and errors; knows nothing of reports.
"""
