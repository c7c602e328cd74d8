"""Commands with the options of settings, which are generated from the recipe, and of output."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt

from efftune.cli import completion
from efftune.errors import UsageError
from efftune.recipe.schema import SETTINGS, Place
from efftune.recipe.settings import merged_choices


@dataclass(frozen=True)
class Output:
    """The output options of a command.

    Attributes:
        json: print JSON.
        quiet: show no progress.
        csv: print CSV, if the command offers that.
    """

    json: bool
    quiet: bool
    csv: bool = False

    @property
    def form(self) -> str:
        """The output format: `json`, `csv` or `table`."""
        return "json" if self.json else "csv" if self.csv else "table"


_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
_Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the result.")]
_Config = Annotated[
    Path | None, typer.Option(help="A TOML file of settings, such as the recipe.toml of a run.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting of the recipe, as KEY=VALUE; may be repeated.",
        autocompletion=completion.assignments,
    ),
]

_Target = Annotated[
    str | None,
    typer.Option(
        "--for",
        help="What the classifier is for, as in `efftune export`: pictures are resized as it does.",
        metavar="TARGET",
    ),
]

_Cluster = Annotated[
    str | None,
    typer.Option(
        help="Ray's workers that help: local:N, N of them on this machine; ray://HOST:PORT or "
        "HOST:PORT, a cluster; auto, the one that RAY_ADDRESS names, if it is set. (default: auto)",
        metavar="CLUSTER",
    ),
]

COLUMNS = (
    *("path_column", "label_column", "split_column", "group_column", "root", "label_columns"),
    *("splits", "copies"),
)
# Defaults of commands that do not train; the processor starts fastest.
_WITHOUT_TRAINING = {"device": "cpu"}
ALL = tuple(key for key, place in SETTINGS.items() if place.setting.flag)
_PANELS = {
    "": "Recipe",
    "backbone": "Model",
    "data": "Data",
    "head": "Head",
    "augmentation": "Augmentation",
    "tuning": "Fine-tuning",
    "scratch": "Training from scratch",
    "optimization": "Gradient descent",
    "evaluation": "Evaluation",
}


def command(
    app: typer.Typer,
    *,
    settings: Sequence[str] = (),
    default: str | Mapping[str, str] = "",
    also: Collection[Literal["for", "cluster"]] = (),
    more: Mapping[str, tuple[Any, Any]] | None = None,
    lines: bool | Literal["csv"] = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command, with the options that several commands share.

    The function takes its own arguments and `output`, made from `--json`, `--csv` and `--quiet`. If
    `settings` are given, also `choices`: those from options, `--set` and `--config`, by name.

    Args:
        app: the application to register the command with.
        settings: names of recipe settings to add as options; with those of fine-tuning, also
            `--set`.
        default: the default that `--help` shows for these options, if it is not the recipe's; or
            those of some of them.
        also: `--for`, which sets what an application needs; `--cluster`, workers that help.
        more: annotations and defaults of further options, which the function takes as `more`.
        lines: whether `--json` prints one object per line; `csv` to add `--csv`, too.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        setting_options = _setting_options(settings, default, also)
        output_options = _output_options(lines)

        @functools.wraps(function)
        def wrapper(**arguments: Any) -> None:
            output = Output(**{name: arguments.pop(name) for name in output_options})
            if settings:
                arguments["choices"] = _choices(settings, arguments)
            if more:
                arguments["more"] = {name: arguments.pop(name) for name in more}
            with _joined(arguments.pop("cluster", "")):
                function(**arguments, output=output)

        parameters = [  # Typer builds the options from these
            *_own_parameters(function),
            *_more_parameters(more or {}),
            *_new_parameters(setting_options, None),
            *_new_parameters(output_options, False),
        ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command()(wrapper)
        return wrapper

    return decorate


def _joined(where: str | None) -> AbstractContextManager[Any]:
    """Together with the cluster that the user names; None for `auto`, empty for none."""
    if where == "":
        return nullcontext()
    from efftune.system import cluster

    return cluster.cluster(where or "auto")


def _choices(settings: Sequence[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the choices of some settings out of the arguments of a command, and merge them."""
    config, assignments = arguments.pop("config"), arguments.pop("settings", None) or []
    options = {key: arguments.pop(key) for key in settings}
    chosen = merged_choices(config, assignments, options)
    given = merged_choices(None, assignments, options)
    in_file = {key: config for key in chosen if key not in given}
    return _made_for(arguments.pop("target", None), chosen, in_file)


def _made_for(
    target: str | None, choices: dict[str, Any], in_file: Mapping[str, Path]
) -> dict[str, Any]:
    """The choices, with what an application needs.

    Args:
        target: the application; None for none.
        choices: by name.
        in_file: the file of settings, by the names of the choices that come from it.

    Raises:
        UsageError: there is no such application, or something else was chosen.
    """
    if target is None:
        return choices
    from efftune.delivery import targets

    needed = targets.find(target).training
    for key, value in needed.items():
        if choices.get(key, value) != value:
            flag = SETTINGS[key].setting.flag
            if key in in_file:
                raise UsageError(
                    f"--for {target} sets {flag} {value}, but {in_file[key]} holds "
                    f"{key} = {choices[key]}. Add {flag} {value}, or omit --for."
                )
            raise UsageError(
                f"--for {target} sets {flag} {value}. Omit {flag} {choices[key]}, or --for."
            )
    return {**choices, **needed}


def _setting_options(
    settings: Sequence[str], default: str | Mapping[str, str], also: Collection[str]
) -> dict[str, Any]:
    trains = "learning_rate" in settings
    defaults = dict.fromkeys(settings, default) if isinstance(default, str) else default
    defaults = {**defaults, **({} if trains else _WITHOUT_TRAINING)}
    found = {key: option(key, defaults.get(key, ""), panels=trains) for key in settings}
    return (
        found
        | ({"config": _Config} if settings else {})
        | ({"settings": _Set} if trains else {})
        | ({"target": _Target} if "for" in also else {})
        | ({"cluster": _Cluster} if "cluster" in also else {})
    )


def _own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    return [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(function).parameters.values()
        if each.name not in ("choices", "more", "output")
    ]


def _output_options(lines: bool | Literal["csv"]) -> dict[str, Any]:
    found = {"json": _JsonLines if lines else _Json} | ({"csv": _Csv} if lines == "csv" else {})
    return found | {"quiet": _Quiet}


def _more_parameters(more: Mapping[str, tuple[Any, Any]]) -> list[inspect.Parameter]:
    return [
        parameter
        for name, (annotation, default) in more.items()
        for parameter in _new_parameters({name: annotation}, default)
    ]


def _new_parameters(annotations: Mapping[str, Any], default: Any) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, annotation in annotations.items()
    ]


def option(key: str, default: str = "", *, panels: bool = False) -> Any:
    """The type annotation, for Typer, of the option for a setting.

    Args:
        key: the name of the setting.
        default: the default that `--help` shows; by default the recipe's.
        panels: whether `--help` groups the option by its section of the recipe.
    """
    place = SETTINGS[key]
    kind, choices = (str, []) if place.setting.parse else _kind(place.annotation)
    metavar = f"[{'|'.join(choices)}]" if choices else None
    panel = _PANELS[place.section] if panels else None
    return Annotated[
        kind | None,
        typer.Option(
            place.setting.flag,
            help=_help(place, default),
            metavar=metavar,
            rich_help_panel=panel,
            autocompletion=completion.of_setting(key),
        ),
    ]


def _kind(annotation: Any) -> tuple[Any, list[str]]:
    """The type of an option for a setting, and its allowed values if it is an enumeration."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return str, list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        kinds = [_kind(each) for each in get_args(annotation)]
        is_enumeration = all(values for _, values in kinds)
        return str, [value for _, values in kinds for value in values] if is_enumeration else []
    return (annotation, []) if annotation in (int, float, bool) else (str, [])


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
    """The range of a number, as text."""
    low = least = high = ""
    for each in getattr(annotation, "__metadata__", ()):
        match each:
            case Ge():
                low, least = f"{each.ge:,}", f"{each.ge:,} or more"
            case Gt():
                low = least = f"above {each.gt:,}"
            case Le():
                high = f"{each.le:,}"
            case Lt():
                high = f"below {each.lt:,}"
    if low and high:
        return f"{low} to {high}"
    return least
