import pytest

from efftune.system import text

FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
PERSIAN = "می\N{ZERO WIDTH NON-JOINER}خواهم"


@pytest.mark.parametrize(
    "name", [FAMILY, PERSIAN, "桜\N{IDEOGRAPHIC SPACE}花", "a\N{NO-BREAK SPACE}b", "a\\b"]
)
def test_ordinary_names_are_printed_as_they_are(name):
    assert text.escape_control(name) == name


@pytest.mark.parametrize("code", [0x00, 0x1B, 0x7F, 0x9B, 0x2028, 0x202E, 0x2066, 0xDCE9])
def test_characters_that_control_the_terminal_are_escaped(code):
    escape = chr(code).encode("unicode_escape").decode()
    assert text.escape_control(f"a{chr(code)}b") == f"a{escape}b"


def test_characters_may_be_kept():
    assert text.escape_control("a\nb\rc", keep="\n") == "a\nb\\rc"
