"""model/engines."""
