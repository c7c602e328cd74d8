import numpy as np
import pytest

from efftune.evaluation import cross_fitting
from efftune.evaluation.cross_fitting import CrossFitting
from efftune.recipe.recipe import Recipe
from efftune.training import principal_components, regression_head


def made(features, labels, strength=0.1, groups=None):
    groups = np.arange(len(labels)) if groups is None else groups
    components = principal_components.fit_components(features, standardised=False)
    nothing = np.zeros((features.shape[1], 1), np.float32), np.zeros(1, np.float32)
    head = regression_head.Head(*nothing, strength, components)
    return CrossFitting(features, labels, groups, head, Recipe())


def clusters(count, seed=0, classes=3):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(0, 1, (classes, 12))
    labels = np.arange(count) % classes
    return (centres[labels] + random.normal(0, 0.7, (count, 12))).astype(np.float32), labels


def test_flipped_labels_are_corrected_out_of_fold():
    features, labels = clusters(300)
    flipped = np.random.default_rng(1).permutation(300)[:20]
    given = labels.copy()
    given[flipped] = (labels[flipped] + 1) % 3
    probabilities = made(features, given).out_of_fold()
    assert probabilities.shape == (300, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (probabilities[flipped].argmax(axis=1) == labels[flipped]).mean() > 0.8


def test_a_picture_does_not_influence_its_own_prediction():
    """Random labels cannot be predicted unless a head was fitted on them."""
    features, _ = clusters(300)
    labels = np.random.default_rng(2).integers(0, 3, 300)
    probabilities = made(features, labels, 1.0).out_of_fold()
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.5


def test_classes_of_one_picture_each_are_all_unknown():
    features, labels = clusters(3)
    fitting = made(features, labels)
    assert np.isnan(fitting.out_of_fold()).all()
    assert fitting.correct_by_size(features, labels)[3].all()


def test_class_of_one_picture_is_unknown_without_it():
    features, labels = clusters(100)
    labels[-1] = 3
    probabilities = made(features, labels).out_of_fold()
    assert np.isnan(probabilities).all(axis=1).nonzero()[0].tolist() == [99]


def test_copies_of_a_picture_stay_in_one_fold():
    """Each picture four times, with a random label: a head fitted on a copy predicts that label."""
    features, _ = clusters(300)
    labels = np.random.default_rng(2).integers(0, 3, 300).repeat(4)
    features, numbers = features.repeat(4, axis=0), np.arange(300).repeat(4)
    accuracy = {
        name: (made(features, labels, 1e3, groups).out_of_fold().argmax(axis=1) == labels).mean()
        for name, groups in (("apart", None), ("together", numbers))
    }
    assert accuracy["together"] < 0.4 < accuracy["apart"]


def test_accuracy_grows_with_size_and_each_size_has_its_heads():
    features, labels = clusters(600)
    others, truth = clusters(200, seed=3)
    found = made(features, labels).correct_by_size(others, truth)
    assert list(found) == [60, 120, 240, 420, 600]
    assert [len(each) for each in found.values()] == [3, 3, 3, 3, 1]
    means = [each.mean() for each in found.values()]
    assert means[-1] > means[0]


def test_few_pictures_leave_one_of_each_class():
    features, labels = clusters(9)
    found = made(features, labels).correct_by_size(features, labels)
    assert min(found) == 3
    assert max(found) == 9


def test_head_for_a_fold_knows_every_class_however_few_it_is_fitted_on():
    features = np.eye(20, dtype=np.float32).repeat(5, axis=0)
    labels, folds = np.arange(20).repeat(5), np.arange(100) % 5
    found = made(features, labels, 1e3).correct_by_size(features, labels, folds)
    assert min(found) == 20
    assert all(rows.all() for rows in found.values())


@pytest.mark.parametrize(
    ("choices", "word"),
    [({}, ""), ({"head_epochs": 3}, "gradient"), ({"phases": ["scratch"]}, "random weights")],
)
def test_recipes_without_features_give_the_reason(choices, word):
    why = cross_fitting.why_unavailable(Recipe().changed(**choices))
    assert bool(why) == bool(word)
    assert word in why


@pytest.mark.parametrize(("count", "heads"), [(6, {3: 3, 6: 1}), (3, {3: 1}), (12, {3: 3, 6: 3})])
def test_sizes_are_measured_three_times_at_most(count, heads):
    """Of four pictures, a tenth and a fifth are one picture."""
    features, labels = clusters(count)
    found = made(features, labels).correct_by_size(features, labels)
    assert {size: len(rows) for size, rows in found.items()}.items() >= heads.items()
    assert all(len(rows) <= 3 for rows in found.values())
