import math

import numpy as np
import pytest

from efftune.errors import DataError
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import gradient_head

from .test_regression_head import accuracy, clouds

EPOCHS = 80  # until BatchNorm's averages, which follow slowly, are right
STAGE = Stage("head", "", EPOCHS, 1e-2)
SHORT = Stage("head", "", 4, 1e-2)


def fit(views=None, stage=STAGE, steps=None, **choices):
    features, labels = clouds(spread=0.3)
    recipe = Recipe(**({"batch_size": 32, "label_smoothing": 0.0} | choices))
    on_step = (lambda *each: steps.append(each)) if steps is not None else (lambda *_: None)
    return gradient_head.fit(
        stage, views or (lambda _epoch: features), labels, (features, labels), recipe, on_step
    )


@pytest.fixture(scope="module")
def fitted():
    """A head, the outcome of fitting, the epochs whose views were asked for, and the steps."""
    features, _ = clouds(spread=0.3)
    asked, steps = [], []
    head, outcome = fit(lambda epoch: asked.append(epoch) or features, steps=steps)
    return head, outcome, asked, steps


def test_head_learns_separable_classes(fitted):
    head, outcome, *_ = fitted
    assert accuracy(head, *clouds(spread=0.3)) == 1
    assert [epoch.number for epoch in outcome.epochs] == list(range(1, EPOCHS + 1))
    assert outcome.epochs[-1].loss < outcome.epochs[0].loss
    assert outcome.best > 0
    assert {epoch.learning_rate for epoch in outcome.epochs} == {1e-2}


def test_batchnorm_is_in_the_head(fitted):
    """Dense layer and BatchNorm in use are one dense layer: the loss reported is the head's own."""
    head, outcome, *_ = fitted
    features, labels = clouds(spread=0.3)
    likelihoods = head.probabilities(features)[np.arange(len(labels)), labels]
    assert -np.log(likelihoods).mean() == pytest.approx(outcome.selected.val_loss, rel=1e-3)


def test_epochs_record_the_mean_of_their_steps():
    _, outcome = fit(stage=Stage("head", "", 6, 1e-9))  # five batches of 32
    right = [160 * epoch.accuracy for epoch in outcome.epochs]
    assert right == pytest.approx(np.round(right), abs=1e-3)
    assert any(round(count) % 5 for count in right)  # the last batch alone gives thirty-seconds


def test_each_epoch_sees_a_view_of_its_own(fitted):
    _, _, asked, _ = fitted
    assert asked == list(range(1, EPOCHS + 1))


def test_last_partial_batch_is_left_out(fitted):
    *_, steps = fitted  # 160 pictures
    assert steps[-1] == (5 * EPOCHS, 5 * EPOCHS)
    steps = []
    fit(stage=SHORT, steps=steps, batch_size=60)
    assert steps[-1] == (2 * SHORT.epochs, 2 * SHORT.epochs)


@pytest.mark.long
def test_same_seed_gives_the_same_head():
    first, second, other = (fit(stage=SHORT, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first.kernel, second.kernel)
    assert not np.array_equal(first.kernel, other.kernel)


@pytest.mark.long
def test_head_that_ends_worse_than_guessing_starts_again_with_a_lower_rate():
    _, outcome = fit(stage=Stage("head", "", 4, 2.0), dropout=0.9)
    assert outcome.failures[0].startswith("the final loss was ")
    assert outcome.failures[0].endswith(" at a learning rate of 2")
    assert outcome.stage.learning_rate == pytest.approx(0.2)


@pytest.mark.ci
def test_head_that_cannot_be_trained_is_an_error_with_advice():
    with pytest.raises(DataError, match=r"Training of the head diverged: .* head_learning_rate"):
        fit(stage=Stage("head", "", 3, 1e5), dropout=0.9)


def test_epochs_that_make_it_worse_are_rolled_back():
    _, outcome = fit(stage=Stage("head", "", 1, 1e-12), views=lambda _e: np.zeros((160, 30), "f4"))
    assert math.isfinite(outcome.start.val_loss)
    assert outcome.best == 0
