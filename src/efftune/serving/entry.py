"""`efftune.serve`, which needs none of the server's packages until it is called."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from efftune.errors import UsageError
from efftune.runs import loading
from efftune.runs.loading import PrecisionChoice
from efftune.system import files, packages
from efftune.system.text import escape_control


def _print(event: str, value: str) -> None:
    print(f"{event}: {escape_control(value)}", flush=True)  # names may have line breaks


def serve(
    run: str | Path,
    *,
    max_error: float | str | None = None,
    precision: PrecisionChoice = "f32",
    on_event: Callable[[str, str], None] = _print,
    **settings: Any,
) -> None:
    """Serve a classifier until the process is told to stop by Ctrl-C or SIGTERM.

    What was received until then is answered first. A second signal ends the process at once.

    Args:
        run: the run folder, or an exported file; or with `serves_latest` the folder of runs whose
            newest is served.
        max_error: see `load`.
        precision: see `load`.
        on_event: called, perhaps from another thread, with `listening` and the address, `ready` or
            `reloaded` and the name of the run, `sorted` and where a photo is, `progress` and how
            far it is, or `problem` and what is wrong. By default, they are printed.
        settings: of the server; see `ServerSettings`.

    Raises:
        UsageError: a package or a folder is missing, a setting is invalid, the address cannot be
            used, or there is no such run.
        DataError: the run is damaged.
    """
    try:
        from efftune.serving import server
    except ModuleNotFoundError as error:
        command = packages.install("efftune[serve]")
        raise UsageError(f"Serving needs {error.name}. Run: {command}") from None
    from efftune.serving.settings import ServerSettings

    try:
        chosen = ServerSettings(**settings)
    except TypeError as error:
        raise UsageError(f"{error}".replace("ServerSettings.__init__()", "serve()") + ".") from None
    load = partial(loading.load, max_error=max_error, precision=precision)
    server.serve(files.user_path(run), chosen, load, on_event)
