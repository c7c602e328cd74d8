"""Every choice of a run as one frozen value, TOML in and out."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efftune.errors import UsageError, unknown_name

Fit = Literal["stretch", "crop", "pad"]


class Recipe(BaseModel):
    """All the choices of a training run.

    Attributes:
        name: the named recipe these choices started from.
        model: the model's name, as `efftune models` lists it.
        image_size: side of the square the model sees, in pixels; 0 means the model's own.
        fit: how a picture becomes a square. `stretch` ignores its proportions, `crop` keeps the
            central square, `pad` adds grey bars.
        val_fraction: share of the pictures held out for validation where the source has no
            validation split, 0.01 to 0.5.
        test_fraction: the same for the test split.
        missing_classes: `refuse` stops when a class is missing from a split; `allow` goes on as
            long as every class can be trained.
        views: augmented views of each training picture, beside the picture itself, 0 to 32.
        head_strengths: strengths of the head's L2 penalty to choose from, as scikit-learn's `C`
            (larger is weaker).
        head_folds: folds of the cross-validation that chooses among them, 2 to 20.
        seed: makes splits, views and folds repeatable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["quick"] = "quick"
    model: str = "efficientnet-lite0"
    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    fit: Fit = "crop"
    val_fraction: Annotated[float, Field(ge=0.01, le=0.5)] = 0.15
    test_fraction: Annotated[float, Field(ge=0.01, le=0.5)] = 0.15
    missing_classes: Literal["refuse", "allow"] = "refuse"
    views: Annotated[int, Field(ge=0, le=32)] = 0
    head_strengths: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=20)
    ] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    head_folds: Annotated[int, Field(ge=2, le=20)] = 3
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def to_toml(self) -> str:
        """The recipe as TOML; `named` with `choices_in` gives back an equal recipe."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @classmethod
    def named(cls, name: str, /, **choices: Any) -> "Recipe":
        """A named recipe with some of its choices changed.

        Args:
            name: one of `RECIPES`.
            **choices: attributes to change. Text is converted as needed (`"3"` to 3).

        Raises:
            UsageError: an unknown recipe or attribute, or a value out of its range.
        """
        if name not in RECIPES:
            raise unknown_name("recipe", str(name), RECIPES)
        return RECIPES[name].changed(**choices)

    def changed(self, **choices: Any) -> "Recipe":
        """The same recipe with some of its choices changed; see `named`."""
        for key in choices:
            if key not in Recipe.model_fields:
                raise unknown_name("recipe setting", key, Recipe.model_fields)
        try:
            return Recipe.model_validate(self.model_dump() | choices)
        except ValidationError as error:
            raise UsageError(_explain(error)) from None


RECIPES = {"quick": Recipe()}


def choices_in(path: Path) -> Mapping[str, Any]:
    """The choices written in a TOML file.

    Raises:
        UsageError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}.") from None


def gathered(
    config: Path | None, settings: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Choices from a settings file, `KEY=VALUE` texts and options; the later win.

    Args:
        config: a TOML file, or None.
        settings: texts such as `views=2` or `head_strengths=[0.01, 0.1]`.
        options: choices by name; those that are None are left out.

    Raises:
        UsageError: the file cannot be used, or a text is not of that form.
    """
    choices = dict(choices_in(config)) if config else {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, for example views=2. Received: {setting!r}.")
        choices[key.strip()] = _value(text.strip())
    return choices | {key: value for key, value in options.items() if value is not None}


def _value(text: str) -> Any:
    """A TOML value, or the text itself: quotes around words are not asked for."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, problem['loc'][:1]))} = {problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "This recipe cannot be used. " + "; ".join(problems) + "."
