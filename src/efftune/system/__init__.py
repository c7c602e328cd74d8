"""What the operating system gives: files that appear whole, processors, time.

May import errors only, and nothing that knows of pictures or networks.
"""
