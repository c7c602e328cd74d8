"""Judging a classifier."""
