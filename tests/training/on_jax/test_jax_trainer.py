import threading
from dataclasses import replace

import jax
import keras
import numpy as np
import pytest

from efftune.features.cache import CachedRows, FeatureCache
from efftune.training import jax_feed, jax_trainer
from efftune.training.batches import ArrayViews, CachedViews, LabelledInputs, Mix
from efftune.training.jax_feed import Feed, ahead, devices_for
from efftune.training.jax_trainer import JaxTrainer
from efftune.training.trainer import KerasTrainer

from .conftest import BATCH, CLASSES, DIGESTS, PICTURES, SIZE, models, orders, pictures, stage_data

WEIGHTS = np.linspace(0.5, 1.5, PICTURES).astype(np.float32)


def mixes(random):
    """A box of the partner's pixels per step, of a size and at a place of its own."""
    while True:
        mask = np.ones((1, SIZE, SIZE, 1), np.float32)
        top, height = random.integers(0, SIZE // 2, 2)
        mask[:, top : top + height, 1:4] = 0
        partners = random.permutation(BATCH).astype(np.int32)
        yield Mix(partners, mask, float(mask.mean()))


def trained(kind, data, epochs=3, **choices):
    """Outcomes of all steps, the state after them, logits, and what was trained with."""
    training, inference = models(**choices)
    trainer, random = kind(training, inference, data), np.random.default_rng(1)
    outcomes = []
    for epoch, order in enumerate(orders(epochs), 1):
        mixing = mixes(random) if choices.get("mixed") else None
        outcomes += trainer.train(epoch, order, mixing)
    state = [np.asarray(each) for each in [*training.variables, *training.optimizer.variables]]
    return np.array(outcomes), state, trainer.logits(), trainer


def assert_same(one, other, tolerance=1e-5):
    for first, second in zip(one[:3], other[:3], strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), first, second
        )


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param({"use_ema": True, "ema_momentum": 0.5}, marks=pytest.mark.long),
        {"mixed": True, "gradient_accumulation_steps": 2},
    ],
    ids=["averages", "mixed, gathered"],
)
def test_many_steps_at_a_time_are_those_of_train_on_batch(choices):
    data = stage_data(weights=WEIGHTS)
    programs, steps = (trained(kind, data, **choices) for kind in (JaxTrainer, KerasTrainer))
    assert_same(programs, steps)
    assert len(set(programs[0][:, 0])) == 9  # of three epochs


@pytest.fixture(scope="module")
def resident():
    return trained(JaxTrainer, stage_data(pictures(augment="standard")))


def test_what_stays_on_the_device_trains_as_what_comes_in_blocks(resident, streamed):
    found = trained(JaxTrainer, stage_data(pictures(augment="standard")))
    assert resident[3]._feed._kept.shape == (PICTURES, SIZE, SIZE, 3)
    assert found[3]._feed._kept is None
    assert (resident[3]._feed.block_steps, found[3]._feed.block_steps) == (3, 2)
    assert_same(resident, found)


def test_four_devices_train_as_one(resident, one_device):
    found = trained(JaxTrainer, stage_data(pictures(augment="standard")))
    assert (resident[3]._mesh.size, found[3]._mesh.size) == (4, 1)
    assert_same(resident, found, 1e-4)


def test_as_many_devices_share_a_batch_as_divide_it():
    assert [devices_for(size).size for size in (8, 6, 9, 7)] == [4, 3, 3, 1]


def test_one_program_runs_any_number_of_steps(resident):
    trainer = resident[3]
    assert trainer._program._cache_size() == trainer._val_program._cache_size() == 1


def calls_of(trainer, order):
    """The number of steps of each call of the program, for an epoch."""
    calls, program = [], trainer._program
    trainer._program = lambda *each: calls.append(each[-1]) or program(*each)
    outcomes = list(trainer.train(1, order))
    assert len(outcomes) == sum(calls) == len(order)
    return calls


@pytest.mark.parametrize(("seconds", "expected"), [(60, [1, 1, 8, 2]), (0, [1] * 12)])
def test_calls_take_about_as_long_as_wanted(monkeypatch, seconds, expected):
    """The first one compiles, so it is no measure."""
    monkeypatch.setattr(jax_trainer, "_CALL_SECONDS", seconds)
    data = replace(stage_data(), batch_size=2)
    order = np.arange(24).reshape(12, 2)
    assert calls_of(JaxTrainer(*models(), data), order) == expected


def test_logits_are_those_of_predict_in_order(streamed):
    training, inference = models()
    data = stage_data()
    found = JaxTrainer(training, inference, data).logits()
    assert found.dtype == np.float32
    expected = inference.predict_on_batch(data.val.batch(np.arange(PICTURES), 0))
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_activations_keep_their_type_on_the_device(tmp_path):
    store = FeatureCache(tmp_path, "float16", (2, 2, 5))
    values = np.random.default_rng(0).normal(size=(PICTURES, 2, 2, 5)).astype(np.float16)
    store.add(DIGESTS, values)
    inputs = CachedViews([CachedRows(store, DIGESTS)], seed=0)
    order = next(orders(1))
    for reads in (2 * PICTURES, PICTURES):  # kept there, or brought by the block
        feed = Feed(inputs, devices_for(BATCH), order.shape, reads)
        data, arrays = feed.block(order, 1)
        assert ("rows" in arrays) == (reads > PICTURES)
        assert data.dtype == np.float16
        found = np.asarray(data)[arrays["rows"]] if "rows" in arrays else np.asarray(data)
        assert (found == values[order]).all()


def test_what_stays_on_the_device_is_brought_there_in_parts(monkeypatch):
    monkeypatch.setattr(jax_feed, "_BLOCK_BYTES", 10 * SIZE * SIZE * 3)
    split = pictures()
    feed = Feed(split.inputs, devices_for(BATCH), (3, BATCH), 2 * PICTURES)
    assert (np.asarray(feed._kept) == split.batch(np.arange(PICTURES), 0)).all()


def test_what_is_read_once_does_not_stay_on_the_device():
    features = np.ones((PICTURES, 5), np.float32)
    views = ArrayViews(lambda _epoch: features, features.shape, epochs=3)
    assert Feed(views, devices_for(BATCH), (3, BATCH), 3 * PICTURES)._kept is None
    assert Feed(views, devices_for(BATCH), (3, BATCH), 6 * PICTURES)._kept is not None


def test_an_epoch_can_be_left_and_changes_nothing():
    training, inference = models()
    before = [np.asarray(each) for each in training.variables]
    trainer = JaxTrainer(training, inference, stage_data())
    outcomes = trainer.train(1, next(orders(1)))
    next(outcomes)
    outcomes.close()
    assert all(
        (np.asarray(each) == old).all()
        for each, old in zip(training.variables, before, strict=True)
    )


def test_the_next_block_is_made_while_one_is_used():
    made = threading.Event()

    def blocks():
        yield 0
        made.set()
        yield 1
        raise LookupError("seven")

    coming = ahead(blocks())
    assert next(coming) == 0
    assert made.wait(10)
    assert next(coming) == 1
    with pytest.raises(LookupError, match="seven"):
        next(coming)


def test_features_are_trained_on_too():
    """As the head by gradient descent is."""
    features = np.random.default_rng(0).normal(size=(PICTURES, 5)).astype(np.float32)
    split = LabelledInputs(
        ArrayViews(lambda _epoch: features, features.shape), np.arange(PICTURES) % 3
    )
    entry = keras.Input((5,))
    model = keras.Model(entry, keras.layers.Dense(CLASSES)(entry))
    model.compile(
        keras.optimizers.Adam(0.1), keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    model.optimizer.build(model.trainable_variables)
    trainer = JaxTrainer(model, model, replace(stage_data(split), val=split))
    (order,) = orders(1)
    losses = [loss for loss, _ in trainer.train(1, order[[0, 0, 0]])]
    assert losses == sorted(losses, reverse=True)
    assert trainer.logits() == pytest.approx(model.predict_on_batch(features), abs=1e-5)
