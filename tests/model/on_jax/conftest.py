"""`test_on_jax.py` runs what is here."""

import os

import keras

if keras.backend.backend() != "jax" or "count=4" not in os.environ.get("XLA_FLAGS", ""):
    collect_ignore_glob = ["test_*.py"]
