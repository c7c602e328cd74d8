"""The command line: parsing of arguments, progress bars, and printing of results.

Modules here may import from every other part of efftune; nothing may import from here.
"""
