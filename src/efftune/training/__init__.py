"""Planning and training: plans, view selection, stages, heads and the models that stages train.

May import features, model, data, recipe, system and errors.
"""
