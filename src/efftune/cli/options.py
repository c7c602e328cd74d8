"""Arguments and options of the commands; those of settings are made from the recipe."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt

from efftune.recipe.recipe import SETTINGS, Place
from efftune.recipe.settings import gathered

Source = Annotated[
    str,
    typer.Argument(
        help="A folder with one folder per class; or one with train, val and test folders of "
        "those; or a .zip, .tar, .tar.gz or .tgz of either; or a .csv, .tsv or .parquet table of "
        "paths and labels; or sample:digits; or tfds:NAME, such as tfds:stanford_dogs; or "
        "hf:NAME, such as hf:beans, or hf:FOLDER.",
        metavar="SOURCE",
    ),
]

RunArgument = Annotated[Path, typer.Argument(help="A run folder made by train.", metavar="RUN")]

RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run", help="The run folder to make. (default: the next free runs/SOURCE-MODEL-N)"
    ),
]

Images = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders or globs; - reads paths from standard input, one a line.",
        metavar="IMAGES",
    ),
]

Raw = Annotated[
    bool, typer.Option("--raw", help="The network's own probabilities, not the calibrated ones.")
]

Top = Annotated[int, typer.Option(help="How many of the likeliest classes.", min=1)]

Out = Annotated[
    Path | None, typer.Option(help="A folder for the table of findings and for pictures.")
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
]

SplitName = Annotated[
    str | None,
    typer.Option(help="train, val or test. (default: test if SOURCE has one, else everything)"),
]

Open = Annotated[bool, typer.Option("--open", help="Show it in the browser.")]

Accept = Annotated[
    int | None,
    typer.Option(
        help="Write no page: relabel this many of the most suspect pictures as suggested.", min=1
    ),
]

Label = Annotated[
    str | None, typer.Option(help="The class to explain. (default: the one answered)")
]

ExplanationFile = Annotated[Path, typer.Option("--out", help="A folder for the pictures.")]

Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Two or more run folders; the first is what the others are compared with.",
        metavar="RUN RUN...",
    ),
]

ComparedSplit = Annotated[str, typer.Option(help="test or val.")]

Drawing = Annotated[
    Path | None, typer.Option("--out", help="A PNG of accuracy against seconds to write.")
]

# Of classify and models.
PublishedModel = Annotated[str, typer.Option(help="As `efftune models` lists it.")]
Fetch = Annotated[
    str | None,
    typer.Option(help="Download the weights of this model, for use without a network."),
]


@dataclass(frozen=True)
class Output:
    """How a command tells its result.

    Attributes:
        json: as JSON, for programs.
        quiet: without progress.
        csv: as CSV, where a command offers that.
    """

    json: bool
    quiet: bool
    csv: bool = False

    @property
    def form(self) -> str:
        """`json`, `csv` or `table`."""
        return "json" if self.json else "csv" if self.csv else "table"


_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
_Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
_Config = Annotated[
    Path | None, typer.Option(help="A TOML file of settings, such as a run's recipe.toml.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting of the recipe, as KEY=VALUE. Repeatable."),
]

COLUMNS = ("path_column", "label_column", "split_column", "group_column")
ALL = tuple(key for key, place in SETTINGS.items() if place.setting.flag)
_PANELS = {
    "": "Recipe",
    "backbone": "Model",
    "data": "Data",
    "head": "Head",
    "augmentation": "Augmentation",
    "tuning": "Fine-tuning",
    "optimization": "Gradient descent",
    "evaluation": "Evaluation",
}


def command(
    app: typer.Typer,
    *,
    settings: Sequence[str] = (),
    default: str = "",
    lines: bool = False,
    csv: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command, with the options that many have.

    The function takes its own arguments; `output`, made from `--json` and `--quiet`; and, if it has
    settings, `choices`: those given by option, by `--set` or in the file of `--config`, by name.

    Args:
        app: to which the command belongs.
        settings: settings of the recipe to offer as options; with all of them, `--set` too.
        default: what `--help` says of their defaults, where they are not the recipe's.
        lines: whether `--json` prints an object a line.
        csv: whether to offer `--csv`, too.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())
        added = {key: option(key, default, panels=settings is ALL) for key in settings}
        if settings:
            added |= {"config": _Config}
        if settings is ALL:
            added |= {"settings": _Set}
        outputs = {"json": _JsonLines if lines else _Json} | ({"csv": _Csv} if csv else {})
        outputs |= {"quiet": _Quiet}

        @functools.wraps(function)
        def run(**given: Any) -> None:
            output = Output(**{name: given.pop(name) for name in outputs})
            if settings:
                config, texts = given.pop("config"), given.pop("settings", None)
                options = {key: given.pop(key) for key in settings}
                given["choices"] = gathered(config, texts or [], options)
            function(**given, output=output)

        own = [each for each in own if each.name not in ("choices", "output")]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        for name, annotation in (added | outputs).items():
            unset = None if name in added else False
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=unset, annotation=annotation
                )
            )
        # Typer reads these.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command()(run)
        return run

    return decorate


def option(key: str, default: str = "", *, panels: bool = False) -> Any:
    """The annotation of the option of a setting.

    Args:
        key: the setting's name.
        default: what `--help` says of its default; by default that of the recipe.
        panels: whether `--help` shows it under the heading of its section.
    """
    place = SETTINGS[key]
    kind, choices = (str, []) if place.setting.parse else _kind(place.annotation)
    metavar = f"[{'|'.join(choices)}]" if choices else None
    panel = _PANELS[place.section] if panels else None
    return Annotated[
        kind | None,
        typer.Option(
            place.setting.flag, help=_help(place, default), metavar=metavar, rich_help_panel=panel
        ),
    ]


def _kind(annotation: Any) -> tuple[Any, list[str]]:
    """The type that a setting's option takes, and the words that it takes, if it takes words."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return str, list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        kinds = [_kind(each) for each in get_args(annotation)]
        only_words = all(words for _, words in kinds)
        return str, [word for _, words in kinds for word in words] if only_words else []
    return (annotation, []) if annotation in (int, float) else (str, [])


def _help(place: Place, default: str) -> str:
    default = default or place.setting.default or as_text(place.default)
    allowed = _range(place.annotation)
    return f"{place.setting.help} ({allowed}{'; ' if allowed else ''}default: {default})"


def as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def values(annotation: Any) -> str:
    """The values that a setting takes, in words."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(values, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return f"some of {values(get_args(annotation)[0])}"
    if get_origin(annotation) is Annotated:
        kind, allowed = values(get_args(annotation)[0]), _range(annotation)
        return f"{kind} {allowed}".strip()
    names = {"int": "number", "float": "number", "str": "text", "bool": "true | false"}
    return names.get(annotation.__name__, "text")


def _range(annotation: Any) -> str:
    """The range of a number, in words."""
    low = high = ""
    for each in getattr(annotation, "__metadata__", ()):
        match each:
            case Ge():
                low = f"{each.ge:,}"
            case Gt():
                low = f"above {each.gt:,}"
            case Le():
                high = f"{each.le:,}"
            case Lt():
                high = f"below {each.lt:,}"
    if low and high:
        return f"{low} to {high}"
    return f"{low} or more" if low else ""
