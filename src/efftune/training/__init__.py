"""Fitting a classifier."""
