"""What people look at: pages, plots, thumbnails, and the check of a source with its pictures.

May import evaluation and every folder below it; shows stored values and computes none.
"""
