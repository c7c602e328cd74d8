"""Operating-system services: atomic file writes, checksums, machine information and timing.

This package may import only `errors`, and must not depend on pictures or networks.
"""
