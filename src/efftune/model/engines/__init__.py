"""Engines that run a frozen network over pictures, and the conversion of Keras models for them.

May import data, system and errors, and OpenVINO, which no other folder imports.
"""

import sys

# OpenVINO reports its use over the network when it is imported, which a tool for people's own
# pictures should not do; without this package it falls back to a silent stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
