"""Every setting of a run, written once, and the named recipes.

Imports nothing of efftune but `errors`, and nothing heavy: `efftune --help` reads the fields.
"""
