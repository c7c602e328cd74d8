"""Write `cli.md` and `settings.md` from the program itself, so that they cannot drift."""

import os
import subprocess
import sys
from pathlib import Path

from efftune.cli import setting_options
from efftune.cli.main import app
from efftune.recipe.recipe import RECIPES
from efftune.recipe.schema import SETTINGS

HERE = Path(__file__).parent


def cli_page() -> str:
    """The page of commands, from `--help`."""
    parts = ["# Command line\n", "Written by `docs/write_pages.py` from `--help`.\n", _help()]
    for command in app.registered_commands:
        name = command.callback.__name__
        parts += [f"## {name}\n", _help(name)]
    return "\n".join([*parts, _EXIT_CODES])


_EXIT_CODES = """\
## Output and exit codes

Results go to standard output; progress, notes and errors to standard error. `--json` prints one
JSON document and nothing else, or one object per line for `predict`, `explain`, `sort`, `export`,
`classify` and `serve` (of each event).
`--quiet` leaves only results, errors and the pictures that cannot be decoded.

| code | meaning |
|---|---|
| 0 | done |
| 1 | `check` found problems |
| 1 | `predict`, `explain`, `sort` or `classify` left out a picture that cannot be decoded |
| 1 | `unsort` had to leave something in place |
| 1 | the files are at fault: no pictures, too few of a class, a damaged or modified run |
| 1 | a file of `export` answers otherwise than the classifier |
| 1 | a download or the system failed, as on a full disk; the reader of a pipe went away |
| 2 | the command is at fault: an unknown option or name, a missing path, an existing run folder |
| 130 | stopped by Ctrl-C; a run that was being trained can go on: `efftune resume` |
| 143 | stopped by SIGTERM; likewise |

An error is one line that begins with `efftune:`, or, if it is in the options themselves, the usage
and a box (code 2). A traceback is a fault of efftune itself (code 1).
"""


def settings_page() -> str:
    """The page of settings, from the fields of the recipe."""
    parts = [
        "# Settings\n",
        "Written by `docs/write_pages.py` from the recipe's fields. A setting goes by its name\n"
        "(`efftune.train(…, head_epochs=5)`, `--set head_epochs=5`), with its section before it\n"
        "(`--set tuning.epochs=5`), or in the table of its section (`[tuning]`), as in a run's\n"
        "`recipe.toml`; a settings file takes them in each of these forms.\n",
    ]
    for section in dict.fromkeys(place.section for place in SETTINGS.values()):
        parts += [f"## {section or 'The run'}\n"]
        parts += ["| name | values | default | option | |\n|---|---|---|---|---|"]
        for key, place in SETTINGS.items():
            if place.section == section:
                own = f" or `{section}.{place.name}`" if place.name != key else ""
                flag = f"`{place.setting.flag}`" if place.setting.flag else ""
                default = place.setting.default or f"`{setting_options.as_text(place.default)}`"
                values = setting_options.values(place.annotation).replace("|", "\\|")
                parts.append(
                    f"| `{key}`{own} | {values} | {default} | {flag} | {place.setting.help} |"
                )
        parts.append("")
    parts += ["## Named recipes\n", "What each changes; everything else is as above.\n"]
    for name, changes in RECIPES.items():
        told = ", ".join(
            f"`{key}={setting_options.as_text(value)}`" for key, value in changes.items()
        )
        parts.append(f"- **{name}**: {told or 'nothing'}")
    return "\n".join(parts) + "\n"


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


PAGES = {"cli.md": cli_page, "settings.md": settings_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page(), encoding="utf-8")
