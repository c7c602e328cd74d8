"""How Python functions show progress; each in a process of its own."""

import os
import pty
import subprocess
import sys

import nbclient
import pytest
from nbformat import v4

import efftune
from efftune.errors import UsageError

SCRIPT = "import sys, efftune; print(efftune.check(sys.argv[1]{}))"


SLOW = """
import time
from efftune.system import progress_bars
with progress_bars.automatic() as report:
    report("inspect", 17, 30)
    time.sleep(1.2)
"""


def output_in_terminal(*command):
    """What a command writes to a terminal as its stderr."""
    ours, its = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its) as process:
        os.close(its)
        written = b""
        try:
            while chunk := os.read(ours, 4096):
                written += chunk
        except OSError:  # the terminal's end, on Linux
            pass
        os.close(ours)
        assert process.wait(60) == 0, written
    return written.decode()


@pytest.mark.ci
def test_bars_in_a_terminal_only(source):
    shown = output_in_terminal(sys.executable, "-c", SCRIPT.format(""), str(source))
    assert "inspect" in shown
    assert f"{source}: class folders" in shown.replace("\r\n", "")
    command = (sys.executable, "-c", SCRIPT.format(""), source)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Check({str(source)!r}: 30 pictures of 3 classes, 0 problems)\n"


def test_another_text_is_a_mistake(source):
    with pytest.raises(UsageError, match="'bars'"):
        efftune.check(source, on_progress="bars")


@pytest.mark.long
def test_notebook_shows_bars_while_it_runs_and_then_the_result(finished_run, source):
    """In a real kernel."""
    cells = [
        f"import efftune; check = efftune.check({str(source)!r})",
        SLOW,
        f"efftune.check({str(source)!r}, on_progress=None)",
        f"efftune.Run.load({str(finished_run.folder)!r})",
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(each) for each in cells])
    updates = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, index):
            if message["msg_type"] == "update_display_data":
                updates.append(message["content"]["data"]["text/html"])
            return super().process_message(message, cell, index)

    Client(notebook, timeout=120, kernel_name="python3").execute()
    first, _, second, third = ([*each.outputs] for each in notebook.cells)
    assert any("inspect" in each and "17/30" in each for each in updates[:-1])
    assert updates[0] == updates[-1] == ""
    assert [each.output_type for each in first] == ["display_data", "stream"]
    assert first[1].text == f"{source}: class folders\n"
    assert [each.output_type for each in second] == ["execute_result"]
    assert "this classifier got" in third[0].data["text/html"]
