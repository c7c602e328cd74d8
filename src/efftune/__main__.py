"""`python -m efftune` is the command `efftune`."""

from efftune.cli import main

main()
