"""Every setting of a run, defined once, and the named recipes.

May import only `errors`, and nothing that is slow to import, because `efftune --help` reads the
fields.
"""
