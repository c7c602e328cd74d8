"""Words quoted for a shell, read back by that shell's own rules."""

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efftune.system import shell


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_words_are_read_back_by_a_shell(words):
    assert shlex.split(shell.quoted(*words)) == words


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("efftune", "predict", "runs\\photos-1"), "efftune predict runs\\photos-1"),
        (("efftune", "C:\\my runs\\a"), 'efftune "C:\\my runs\\a"'),
        (("efftune", "C:\\R&D\\a", ""), 'efftune "C:\\R&D\\a" ""'),
    ],
)
def test_under_windows_they_are_quoted_as_its_programs_read_them(monkeypatch, words, text):
    monkeypatch.setattr(shell.os, "name", "nt")
    assert shell.quoted(*words) == text


def test_paths_are_words():
    assert shell.quoted("ls", Path("a b")) == f"ls {shlex.quote(os.fspath(Path('a b')))}"
