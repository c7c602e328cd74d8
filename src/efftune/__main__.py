"""`python -m efftune` is the command `efftune`."""

from efftune.cli.commands import main

main()
