import os
import subprocess
import sys

import pytest

BASH = """
source <(efftune --show-completion)
COMP_WORDS=(efftune train photos --model efficientnet-v2-b) COMP_CWORD=4
_efftune_completion efftune
echo "${COMPREPLY[@]}"
complete -p efftune
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("efftune cl", "classify"),
        ("efftune models --fetch efficientnet-lite", "efficientnet-lite0 efficientnet-lite4"),
        ("efftune train photos --recipe ", "quick thorough keras-example"),
        ("efftune train photos --model a", "auto"),
        ("efftune train photos --set model=au", "model=auto"),
        ("efftune train photos --fit c", "crop"),
        ("efftune train photos --mod", "--model"),
        ("efftune train photos --set label_s", "label_smoothing="),
        ("efftune train photos --set test_fl", "test_flip=true test_flip=false"),
        ("efftune evaluate run photos --split ", "train val test"),
        ("efftune predict run ", ""),
    ],
)
def test_words_are_completed(efftune_command, monkeypatch, words, completed):
    monkeypatch.setenv("_EFFTUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    offered = efftune_command().stdout.split()
    assert set(completed.split()) <= set(offered)
    assert all(word.startswith(words.rpartition(" ")[2]) for word in offered)
    assert bool(offered) == bool(completed)


def test_bash_completes_by_the_script_that_is_installed(tmp_path):
    command = tmp_path / "efftune"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m efftune "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    offered, registered = done.stdout.splitlines()
    assert offered.split() == [f"efficientnet-v2-b{i}" for i in range(4)]
    assert registered.endswith("-F _efftune_completion efftune")
