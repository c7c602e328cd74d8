"""Backbones, features, classifiers: everything that knows OpenVINO or Keras."""

import sys

# OpenVINO reports its use over the network when it is imported. A tool for people's own pictures
# should not; without this package OpenVINO falls back to a silent stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
