"""Numbers and names as people read them, and small pieces of HTML for notebooks."""

from collections.abc import Sequence

from markupsafe import Markup

_NO_BREAK = "\N{NO-BREAK SPACE}"
# Control characters, and those that change the direction of the text after them. Neither
# right-to-left scripts nor joined emoji need any of these.
_INVISIBLE = (
    *(range(0x20), range(0x7F, 0xA0), (0x61C, 0x200E, 0x200F, 0x2028, 0x2029)),
    *(range(0x202A, 0x202F), range(0x2066, 0x206A)),
    range(0xD800, 0xE000),  # lone halves of a pair: bytes of a file name that are not UTF-8
)
_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode() for codes in _INVISIBLE for code in codes
}


def percent(share: float) -> str:
    """Format a share with one decimal; 100 % and 0 % are reserved for exactly all and none."""
    digits = f"{100 * share:.1f}"
    if digits == "100.0":
        digits = "100" if share > 1 - 1e-9 else "over 99.9"
    elif digits in ("0.0", "-0.0"):
        digits = "0" if share < 1e-9 else "under 0.1"
    return f"{digits}{_NO_BREAK}%"


def interval(low: float, high: float) -> str:
    """Format an interval of two shares: "91.2 to 96.1 %"."""
    return f"{percent(low).removesuffix(f'{_NO_BREAK}%')} to {percent(high)}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a count: "1 picture", "2,000 pictures". `plural` is for irregular nouns."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def seconds(value: float) -> str:
    """Format a duration: "9.5 s", "45 s", "2 min 30 s"."""
    whole = round(value)
    if value < 10:
        text = f"{value:.1f} s"
    else:
        text = f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
    return text.replace(" ", _NO_BREAK)


def shown(text: str) -> str:
    """Escape invisible characters in a name."""
    return text.translate(_ESCAPES)


def escape_control(text: str, keep: str = "") -> str:
    """Escape characters that would control the terminal, the same as `shown` escapes.

    Args:
        text: the text to print.
        keep: characters to leave as they are.
    """
    return "".join(char if char in keep else _ESCAPES.get(ord(char), char) for char in text)


def name(text: str) -> Markup:
    """Mark up a name, isolated from the direction of the surrounding text."""
    return Markup("<bdi>{}</bdi>").format(shown(text))


def table(headings: Sequence[str], rows: Sequence[Sequence[str | Markup]]) -> Markup:
    """A table for the output of a notebook's cell: light or dark, without scripts or style sheets.

    Args:
        headings: of the columns.
        rows: their cells; the first is aligned left, the others right.
    """
    lines = [("th", headings), *(("td", row) for row in rows)]
    return Markup('<table style="margin:.5em 0">{}</table>').format(
        Markup("").join(
            Markup("<tr>{}</tr>").format(
                Markup("").join(
                    Markup('<{} style="text-align:{}">{}</{}>').format(
                        tag, "right" if i else "left", cell, tag
                    )
                    for i, cell in enumerate(cells)
                )
            )
            for tag, cells in lines
        )
    )


def bar(share: float) -> Markup:
    """A share, 0 to 1, as a percentage over a bar, for a cell of a `table`."""
    return Markup(
        '<div style="width:7em">{}<div style="height:3px;background:rgba(128,128,128,.25)">'
        '<div style="height:3px;width:{:.1f}%;background:#3987e5"></div></div></div>'
    ).format(percent(share), 100 * share)


def beside(left: str | Markup, right: str | Markup) -> Markup:
    """Two things side by side in the output of a notebook's cell."""
    return Markup(
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
        "<div>{}</div><div>{}</div></div>"
    ).format(left, right)


def thumbnail(webp: str, side: int) -> Markup:
    """A picture for the output of a notebook's cell.

    Args:
        webp: its WebP in base64; empty for a grey square instead.
        side: of the square that it fits in, in pixels.
    """
    if not webp:
        return Markup(
            '<span style="display:inline-block;width:{0}px;height:{0}px;'
            'background:rgba(128,128,128,.25)"></span>'
        ).format(side)
    return Markup(
        '<img src="data:image/webp;base64,{0}" alt="" '
        'style="display:inline-block;max-width:{1}px;max-height:{1}px;margin:0">'
    ).format(webp, side)
