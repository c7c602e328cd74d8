import math
from dataclasses import replace

import pytest

from efftune.recipe.recipe import Recipe, Stage
from efftune.training.history import advice
from efftune.training.stage_result import StageResult
from efftune.training.validation import Epoch


def epochs(frozen: float, tuned: float) -> list[Epoch]:
    measured = {"head": frozen, "upper": tuned}
    return [
        Epoch(stage, 1, 1.0, 0.5, 0.99, 0.5, accuracy, math.nan)
        for stage, accuracy in measured.items()
    ]


@pytest.mark.parametrize(
    ("head_epochs", "tuned", "expected"),
    [
        (0, 0.92, True),
        (0, 0.72, False),
        # A head that gradient descent has not finished gains from any training.
        (25, 0.92, False),
    ],
)
def test_pictures_are_called_unlike_imagenets_only_if_the_fitted_head_was_worse(
    head_epochs, tuned, expected
):
    trained = epochs(0.7, tuned)
    for selected in (tuned, math.nan):  # which cross-validation judges
        last = replace(trained[-1], val_accuracy=selected)
        result = StageResult(Stage("upper", "block5a", 1, 1e-3), trained[0], (last,), 1, 8)
        said = advice(Recipe(head_epochs=head_epochs), trained, [result])
        assert any("differ a lot from ImageNet's" in each for each in said) == expected


def test_only_the_selected_epoch_of_a_taken_stage_is_called_a_gain():
    accuracies = (0.8, 0.867, 0.833)
    start, *trained = (
        Epoch("upper", i, 1.0, 0.5, 0.99, 0.5, each, math.nan) for i, each in enumerate(accuracies)
    )
    head = Epoch("head", 1, 1.0, 0.5, 0.99, 0.5, 0.8, math.nan)

    def said(best):
        result = StageResult(Stage("upper", "block5a", 2, 1e-3), start, tuple(trained), best, 8)
        return [
            each
            for each in advice(Recipe(), [head, *trained], [result])
            if "fine-tuning gained" in each
        ]

    assert said(0) == said(2) == []
    (gain,) = said(1)
    assert "gained 7 points" in gain
