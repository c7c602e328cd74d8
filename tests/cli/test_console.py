import pytest

from efftune.cli import console

NAMES = [":cat:", "[bold]", "[/]", "\\[x]", "a\x1b[31m", "line\nbreak", "\udce9", "100 %"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name, capsys):
    shown = name.encode("unicode_escape").decode() if name in NAMES[4:7] else name
    console.show_table(("class",), [(name,)])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == shown
    console.echo(name)
    console.warn(name)
    printed = capsys.readouterr()
    assert printed.out == printed.err == (name if "\n" in name else shown) + "\n"
