"""Write `cli.md` from the command line's own help, so that it cannot drift."""

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
COMMANDS = (
    *("check", "train", "demo", "predict", "evaluate", "report", "review", "explain", "compare"),
    *("classify", "models"),
)


def page() -> str:
    """The page's text."""
    parts = ["# Command line\n", "Written by `docs/write_cli_page.py` from `--help`.\n", _help()]
    for command in COMMANDS:
        parts += [f"## {command}\n", _help(command)]
    return "\n".join(parts)


def _help(*command: str) -> str:
    environment = os.environ | {"COLUMNS": "96", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "efftune", *command, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in done.stdout.strip().splitlines()]
    return "```text\n" + "\n".join(lines).replace("python -m efftune", "efftune") + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
