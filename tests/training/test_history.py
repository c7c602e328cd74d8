import math

import pytest

from efftune.recipe.recipe import Recipe
from efftune.training.history import advice
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
    said = advice(Recipe(head_epochs=head_epochs), epochs(0.7, tuned))
    assert any("differ a lot from ImageNet's" in each for each in said) == expected
