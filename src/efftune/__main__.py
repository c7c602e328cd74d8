"""`python -m efftune` is the command `efftune`."""

from efftune.cli.main import main

main()
