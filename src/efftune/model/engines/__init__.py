"""Inference of frozen networks with OpenVINO, and the conversion of Keras models to it.

May import data, system and errors, and OpenVINO, which no other folder imports.
"""

import sys

# OpenVINO sends usage statistics when it is imported, which a tool for private pictures should not
# do. Without this package it uses a stub that sends nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
