import csv
import io
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from efftune.errors import DataError
from efftune.recipe.recipe import Recipe, Stage
from efftune.system import journal
from efftune.system.budget import Budget
from efftune.system.journal import Journal
from efftune.system.progress import Timer
from efftune.training import attempt, deadline, stages, validation
from efftune.training import regression_head as heads
from efftune.training.batches import CachedViews, LabelledInputs
from efftune.training.validation import Epoch

from .conftest import BLOCK, squares, weights


def fit(given, stage=None, **choices):
    recipe = given.recipe.changed(**choices)
    return stages.fit(given.tuned, stage or given.stage, given.train, given.val, recipe)


def blank(given):
    """The same with a head that knows nothing."""
    head = heads.random(1280, 3, seed=0)
    return replace(given, tuned=replace(given.tuned, kernel=head.kernel, bias=head.bias))


def test_stage_learns_from_where_it_starts(given):
    tuned, outcome = fit(blank(given))
    assert outcome.start.val_accuracy < 0.7
    assert outcome.selected.val_accuracy == 1
    assert tuned.backbone.weights_changed


@pytest.mark.ci
def test_next_stage_starts_from_the_best_of_the_last(given):
    tuned, outcome = fit(blank(given))
    _, later = fit(replace(given, tuned=tuned))
    assert later.start.val_loss == pytest.approx(outcome.selected.val_loss, rel=1e-3)


@pytest.mark.ci
def test_stage_that_makes_it_worse_is_rolled_back(given):
    before = weights(given.backbone)
    wrong = LabelledInputs(given.train.inputs, (given.train.labels + 1) % 3)
    tuned, outcome = fit(replace(given, train=wrong))
    assert outcome.best == 0
    assert outcome.to_dict()["rolled_back"]
    assert outcome.selected == outcome.start
    assert (tuned.kernel == given.tuned.kernel).all()
    assert not tuned.backbone.weights_changed
    assert all((value == before[name]).all() for name, value in weights(given.backbone).items())


def test_stage_with_a_new_head_has_to_be_better_than_the_old_one(given):
    fresh = heads.random(1280, 3, seed=0)
    hardly = Stage("upper", BLOCK, 1, 1e-7)
    before = replace(given.tuned, new_head=fresh)
    tuned, outcome = fit(replace(given, tuned=before), hardly)
    assert outcome.start.val_accuracy > outcome.epochs[0].val_accuracy
    assert outcome.best == 0
    assert (tuned.kernel == given.tuned.kernel).all()


@pytest.mark.ci
def test_weights_of_the_best_epoch_are_restored(given):
    tuned, outcome = fit(blank(given), Stage("upper", BLOCK, 6, 0.02))
    best = min(outcome.epochs, key=lambda epoch: epoch.val_calibrated_loss)
    assert outcome.best == best.number
    _, later = fit(replace(given, tuned=tuned), Stage("upper", BLOCK, 1, 1e-9))
    assert later.start.val_loss == pytest.approx(best.val_loss, rel=1e-3)


@pytest.mark.parametrize(
    ("epoch", "best", "expected"),
    [
        ((0.91, 0.20), (0.90, 0.30), True),  # better in both
        ((0.91, 0.30), (0.90, 0.20), False),  # luck
        ((0.90, 0.20), (0.91, 0.30), True),  # hardly less accurate, and surer
        ((0.80, 0.20), (0.91, 0.30), False),  # far less accurate
        ((0.95, 0.40), (0.80, 0.30), True),  # far more accurate
    ],
)
def test_small_differences_do_not_decide_which_epoch_is_best(epoch, best, expected):
    epochs = [
        Epoch("upper", 1, 0.0, 0.0, 0.0, 0.0, accuracy, 0.0, loss)
        for accuracy, loss in (epoch, best)
    ]
    top = max(each.val_accuracy for each in epochs)
    assert validation.is_better(*epochs, top, pictures=300) is expected


def test_calibrated_loss_does_not_depend_on_the_scale_of_logits():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)
    logits = random.normal(0, 1, (200, 4)) + 2 * np.eye(4)[labels]
    found = validation.calibrated_loss(logits, labels)
    assert validation.calibrated_loss(0.3 * logits, labels) == pytest.approx(found, rel=1e-4)
    assert validation.calibrated_loss(5 * logits + 7, labels) == pytest.approx(found, rel=1e-4)
    likelihoods = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    assert found <= -likelihoods[np.arange(200), labels].mean()


def test_patience_ends_a_stage_that_no_longer_gains(given):
    _, outcome = fit(given, Stage("upper", BLOCK, 30, 1e-8), patience=2)
    assert len(outcome.epochs) <= outcome.best + 2 < 30


@pytest.mark.ci
def test_exploding_loss_starts_again_with_a_lower_rate(given, monkeypatch):
    monkeypatch.setattr(attempt, "DIVERGED", np.inf)
    _, outcome = fit(given, Stage("upper", BLOCK, 4, 0.1))
    assert len(outcome.failures) == 1
    assert "at a learning rate of 0.1" in outcome.failures[0]
    assert outcome.stage.learning_rate == pytest.approx(0.01)


@pytest.mark.long
def test_loss_worse_than_guessing_after_an_epoch_starts_again(given, monkeypatch):
    monkeypatch.setattr(attempt, "_EXPLODED", np.inf)
    _, outcome = fit(given, Stage("upper", BLOCK, 3, 3e-3))
    (failure,) = outcome.failures
    assert "worse than guessing at a learning rate of 0.003" in failure
    assert outcome.stage.learning_rate == pytest.approx(3e-4)


@pytest.mark.long
def test_stage_worse_than_guessing_twice_ends_with_the_best_weights_before(given, monkeypatch):
    monkeypatch.setattr(attempt, "_EXPLODED", np.inf)
    before = weights(given.backbone)
    _, outcome = fit(given, Stage("upper", BLOCK, 4, 0.1))
    assert "worse than guessing; the stage was stopped" in outcome.failures[1]
    assert outcome.to_dict()["rolled_back"]
    assert all((value == before[name]).all() for name, value in weights(given.backbone).items())


@pytest.mark.long
def test_loss_that_explodes_twice_is_an_error_with_advice(given):
    before = weights(given.backbone)
    with pytest.raises(
        DataError, match=r"Training diverged in stage upper: .* Set a lower --learning-rate"
    ):
        fit(given, Stage("upper", BLOCK, 2, 1e4))
    assert all((value == before[name]).all() for name, value in weights(given.backbone).items())


class Greedy(CachedViews):
    """Pictures of which only so many fit into memory."""

    fits = 3
    row_count = 2**60

    def read(self, batch, rows):
        if len(rows) > self.fits:
            raise MemoryError
        super().read(batch, rows)


class Broken(CachedViews):
    """Pictures that cannot be read."""

    row_count = 2**60

    def read(self, _batch, _rows):
        raise LookupError("seven")


def as_kind(kind, given):
    """What a stage is given, with training pictures of another kind."""
    inputs = kind.__new__(kind)
    inputs.__dict__ = {**vars(given.train.inputs)}
    del inputs.row_count
    return replace(given, train=LabelledInputs(inputs, given.train.labels))


@pytest.mark.long
def test_batch_that_does_not_fit_is_halved_and_gradients_gathered(given):
    _, outcome = fit(as_kind(Greedy, blank(given)))
    assert outcome.batch_size == 2
    assert outcome.failures == tuple(f"out of memory at a batch size of {size}" for size in (8, 4))
    assert outcome.selected.val_accuracy > outcome.start.val_accuracy


@pytest.mark.ci
def test_picture_that_does_not_fit_is_an_error_with_advice(given, monkeypatch):
    monkeypatch.setattr(Greedy, "fits", 0)
    with pytest.raises(DataError, match="even at a batch size of 1"):
        fit(as_kind(Greedy, given))


def test_other_errors_come_out_as_they_are(given):
    with pytest.raises(LookupError, match="seven"):
        fit(as_kind(Broken, given))


@pytest.mark.ci
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing_still_learns(given, mix):
    _, outcome = fit(blank(given), Stage("upper", BLOCK, 20, 1e-3), mix=mix)
    assert outcome.selected.val_accuracy >= outcome.start.val_accuracy + 0.3


@pytest.mark.long
def test_averaged_weights_are_validated_and_selected(given):
    tuned, outcome = fit(blank(given), ema=0.5)
    _, later = fit(replace(given, tuned=tuned), Stage("upper", BLOCK, 1, 1e-9))
    assert later.start.val_loss == pytest.approx(outcome.selected.val_loss, rel=1e-3)


@pytest.mark.long
def test_same_seed_gives_the_same_to_the_last_digit(folder):
    short = Stage("upper", BLOCK, 3, 1e-3)
    losses = [
        [epoch.loss for epoch in fit(blank(squares(folder)), short, dropout=0.3)[1].epochs]
        for _ in range(2)
    ]
    assert losses[0] == losses[1]


def test_mixup_shares_are_even_and_cutmix_shares_are_a_box():
    random = np.random.default_rng(0)
    even = attempt._mixing_mask(Recipe(mix="mixup"), (4, 6), random)
    assert even.shape == (1, 4, 6, 1)
    assert len(np.unique(even)) == 1
    for _ in range(20):
        box = attempt._mixing_mask(Recipe(mix="cutmix", mix_alpha=1.0), (4, 6), random)
        rows, columns = np.nonzero(box[0, ..., 0] == 0)
        inside = box[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (inside == 0).all()
        assert set(np.unique(box)) <= {0, 1}


def test_history_leaves_empty_what_a_stage_does_not_have():
    nan = float("nan")
    table = validation.to_csv(
        [
            Epoch("head", 1, 2.5, 0.5, 0.75, 0.25, 1.0, nan),
            Epoch("upper", 1, 3, 1, 0, 2, 0, 1e-3),
            Epoch("upper", 2, 1, nan, nan, 2, 0.5, nan, network="all"),
        ]
    )
    first, second, third = csv.DictReader(io.StringIO(table))
    assert (third["accuracy"], third["network"], second["network"]) == ("", "all", "")
    assert first["learning_rate"] == ""
    assert (first["stage"], float(first["val_accuracy"])) == ("head", 1.0)
    assert float(second["learning_rate"]) == 0.001


@pytest.mark.ci
def test_steps_are_counted_to_their_total(given):
    calls = []
    stages.fit(
        given.tuned,
        replace(given.stage, learning_rate=1e-4),
        given.train,
        given.val,
        given.recipe,
        Timer(lambda _phase, done, total: calls.append((done, total))),
    )
    steps = len(given.train.labels) // 8
    assert calls == [(i + 1, 10 * steps) for i in range(10 * steps)]


class Stopped(Exception):
    """Stands for a power cut: nothing is tidied up."""


def outcome(given, timer, **choices):
    """All that a stage comes to, without the time it takes."""
    recipe = given.recipe.changed(**choices)
    stage = replace(given.stage, epochs=3)
    tuned, result = stages.fit(given.tuned, stage, given.train, given.val, recipe, timer)
    epochs = [replace(each, seconds=0.0) for each in result.epochs]
    result = replace(result, epochs=tuple(epochs))
    return repr(result), [tuned.kernel, tuned.bias, *weights(given.backbone).values()]


def kept_in(folder, on_progress=lambda *_: None):
    """A timer whose journal is in a folder."""
    if (folder / journal.FOLDER).exists():
        return Timer(on_progress, Journal.reopened(folder))
    made = Journal()
    made.begin(folder, {})
    return Timer(on_progress, made)


RANDOM = {"dropout": 0.3, "drop_connect_rate": 0.3, "mix": "cutmix", "ema": 0.5}


@pytest.mark.ci
@pytest.mark.parametrize("validated", [True, pytest.param(False, marks=pytest.mark.long)])
def test_stopped_stage_goes_on_to_the_same_bits(
    looked_at, pretrained, tmp_path, monkeypatch, validated
):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    backbone, before = pretrained
    given = looked_at if validated else replace(looked_at, val=None)
    backbone.restore(before)
    expected, arrays = outcome(given, Timer(), **RANDOM)
    steps = 3 * (len(given.train.labels) // 8)
    stops = [1, steps // 3, steps // 2, steps]  # also at the ends of epochs

    def stop(_phase, done, _total):
        if stops and done == stops[0]:
            raise Stopped(stops.pop(0))

    while True:
        backbone.restore(before)
        timer = kept_in(tmp_path, stop)
        try:
            found, again = outcome(given, timer, **RANDOM)
            break
        except Stopped:
            timer.journal.close()
    assert not stops
    assert found == expected
    for array, other in zip(arrays, again, strict=True):
        assert array.tobytes() == other.tobytes()
    backbone.restore(before)
    timer.journal.close()
    finished, again = outcome(given, kept_in(tmp_path, lambda *_: pytest.fail("trained")), **RANDOM)
    assert finished == expected
    assert again[0].tobytes() == arrays[0].tobytes()


@pytest.mark.ci
def test_stage_that_falls_behind_ends_in_time_and_goes_on_to_the_same_bits(
    looked_at, pretrained, tmp_path, monkeypatch
):
    """Two thirds of the steps take nine seconds, and there are six."""
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(deadline, "_OFTEN", 0.0)
    backbone, before = pretrained
    steps = 3 * (len(looked_at.train.labels) // 8)

    def slow(_phase, done, _total):
        time.sleep(9 / (steps * 2 / 3) if done > steps // 3 else 0.0)

    def within(seconds, folder, on_progress=lambda *_: None):
        timer = kept_in(folder, on_progress)
        timer.budget = Budget(seconds)
        timer.budget.reserved = 0.0
        return timer

    backbone.restore(before)
    journal_of = tmp_path / "first"
    journal_of.mkdir()
    timer = within(6, journal_of, slow)
    expected, arrays = outcome(looked_at, timer, **RANDOM)
    timer.journal.close()
    done = int(re.search(r"(\d+) of \d+ steps, so that the run ends in time", expected)[1])
    assert 0 < done < steps
    # The same decisions, in a run that is stopped after each of some steps.
    again = tmp_path / "again"
    again.mkdir()
    made = Journal()
    made.begin(again, {})
    made.close()
    shutil.copytree(journal_of / journal.FOLDER / "decisions", again / journal.FOLDER / "decisions")
    stops = sorted({1, max(1, done - 1), done})

    def stop(_phase, number, _total):
        if stops and number == stops[0]:
            raise Stopped(stops.pop(0))

    while True:
        backbone.restore(before)
        timer = within(1e6, again, stop)
        try:
            found, other = outcome(looked_at, timer, **RANDOM)
            break
        except Stopped:
            timer.journal.close()
    assert not stops
    assert found == expected
    for array, same in zip(arrays, other, strict=True):
        assert array.tobytes() == same.tobytes()
