"""Examples: where they come from, how they are split, decoded and varied."""
