"""efftune: a folder of labelled pictures in, an honestly judged EfficientNet classifier out.

Importing this package imports no framework, sets nothing and prints nothing. Each public name is
loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efftune.data.inspection import Finding
    from efftune.data.packing import Shards, pack
    from efftune.data.sources.table_columns import Columns
    from efftune.errors import DataError, DiskFull, EfftuneError, EfftuneWarning, UsageError
    from efftune.evaluation.comparison import Comparison
    from efftune.evaluation.metrics import Evaluation, SplitEvaluation
    from efftune.model.architectures import build
    from efftune.model.catalogue import models
    from efftune.model.classifier import Classifier
    from efftune.model.prediction import Prediction
    from efftune.model.published import classify
    from efftune.recipe.recipe import Recipe
    from efftune.report.source_check import Check, check
    from efftune.run import demo, finish, plan, resume, search, train
    from efftune.runs.comparing import compare
    from efftune.runs.hub import load_from_hub
    from efftune.runs.loading import load
    from efftune.runs.run import Run
    from efftune.serving.entry import serve
    from efftune.system.cluster import cluster
    from efftune.training.planning import Plan

__version__ = "0.1.0"

_HOMES = {
    "Check": "report.source_check",
    "Classifier": "model.classifier",
    "Columns": "data.sources.table_columns",
    "Comparison": "evaluation.comparison",
    "DataError": "errors",
    "DiskFull": "errors",
    "EfftuneError": "errors",
    "EfftuneWarning": "errors",
    "Evaluation": "evaluation.metrics",
    "Finding": "data.inspection",
    "Plan": "training.planning",
    "Prediction": "model.prediction",
    "Recipe": "recipe.recipe",
    "Run": "runs.run",
    "Shards": "data.packing",
    "SplitEvaluation": "evaluation.metrics",
    "UsageError": "errors",
    "build": "model.architectures",
    "check": "report.source_check",
    "classify": "model.published",
    "cluster": "system.cluster",
    "compare": "runs.comparing",
    "demo": "run",
    "finish": "run",
    "load": "runs.loading",
    "load_from_hub": "runs.hub",
    "models": "model.catalogue",
    "pack": "data.packing",
    "plan": "run",
    "resume": "run",
    "search": "run",
    "serve": "serving.entry",
    "train": "run",
}

__all__ = [
    "Check",
    "Classifier",
    "Columns",
    "Comparison",
    "DataError",
    "DiskFull",
    "EfftuneError",
    "EfftuneWarning",
    "Evaluation",
    "Finding",
    "Plan",
    "Prediction",
    "Recipe",
    "Run",
    "Shards",
    "SplitEvaluation",
    "UsageError",
    "build",
    "check",
    "classify",
    "cluster",
    "compare",
    "demo",
    "finish",
    "load",
    "load_from_hub",
    "models",
    "pack",
    "plan",
    "resume",
    "search",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `efftune --help` need not wait for it."""
    if name in _HOMES:
        return getattr(import_module(f"efftune.{_HOMES[name]}"), name)
    raise AttributeError(f"efftune has no {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
