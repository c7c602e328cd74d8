"""One file for each kind of source, and `discovery.find`, which chooses among them.

May import the other files of data, recipe, system and errors.
"""
