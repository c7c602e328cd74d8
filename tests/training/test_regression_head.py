import dataclasses

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from efftune.recipe.recipe import Recipe
from efftune.training import principal_components, regression_head


def clouds(classes=4, each=40, width=30, spread=1.0, seed=0):
    """Features of classes that lie apart, float32 (pictures, width), and labels."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 1, (classes, width))
    labels = np.repeat(np.arange(classes), each)
    noise = random.normal(0, spread, (len(labels), width))
    return (centres[labels] + noise).astype(np.float32) + 5, labels


def fitted_on(features, labels, recipe):
    return regression_head.fit(features, labels, np.arange(len(labels)), recipe)


def accuracy(fitted, features, labels):
    return (fitted.probabilities(features).argmax(axis=1) == labels).mean()


def test_head_learns_separable_classes():
    features, labels = clouds(spread=0.3)
    fitted = fitted_on(features, labels, Recipe())
    assert fitted.kernel.shape == (30, 4)
    assert fitted.kernel.dtype == fitted.bias.dtype == np.float32
    assert accuracy(fitted, *clouds(spread=0.3)) == 1


def test_head_equals_plain_logistic_regression(monkeypatch):
    monkeypatch.setattr(regression_head, "FINAL_TOLERANCE", 1e-7)
    features, labels = clouds()
    fitted = fitted_on(features, labels, Recipe(head_strengths=(0.1,)))
    rows = features.astype(np.float64)
    rows = rows / np.sqrt(rows.var(axis=0).mean())
    plain = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(rows, labels)
    logits = rows @ plain.coef_.T + plain.intercept_
    assert fitted.probabilities(features) == pytest.approx(softmax(logits, axis=1), abs=1e-3)


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("pictures", [400, 401, 9000])
def test_components_are_principal_ones(monkeypatch, pictures, standardised):
    """Those of few pictures are exact, those of many approximated, block by block."""
    monkeypatch.setattr(principal_components, "COMPONENTS", 40)
    random = np.random.default_rng(0)
    mixing = random.normal(size=(60, 400)) * random.uniform(0.01, 3, 400)
    features = (random.normal(size=(pictures, 60)) @ mixing + 7).astype(np.float32)
    found = principal_components.fit_components(features, standardised=standardised)
    rotated = found.rotated(features)
    rows, variances = features - features.mean(axis=0), features.var(axis=0)
    if standardised:
        rows /= np.sqrt(variances + 0.01 * variances.mean())
    _, expected, _ = np.linalg.svd(rows / np.sqrt(pictures), full_matrices=False)
    variances = rotated.var(axis=0, ddof=1)
    shares = expected[:40] ** 2 / (expected[:40] ** 2).sum()
    assert variances / variances.sum() == pytest.approx(shares, rel=0.03)
    assert variances.sum() == pytest.approx(400, rel=1e-3)
    correlations = np.corrcoef(rotated.T) - np.eye(40)
    assert np.abs(correlations).max() < 1e-3


def test_values_that_never_vary_are_left_out():
    features, labels = clouds(spread=0.3)
    features[:, :3] = [0, 5, -1e4]
    fitted = regression_head.fit(features, labels, np.arange(len(labels)), Recipe(), 10)
    assert np.abs(fitted.kernel[:3]).max() < 1e-5 * np.abs(fitted.kernel).max()
    assert accuracy(fitted, features, labels) == 1


@pytest.mark.parametrize(("others_tell", "each"), [(False, 40), (True, 40), (False, 300)])
def test_few_pictures_may_be_told_by_the_last_stage_alone(others_tell, each):
    features, labels = clouds(each=each, spread=2)
    random = np.random.default_rng(1)
    others = random.normal(0, 50, (len(labels), 400)).astype(np.float32)
    if others_tell:
        others += random.normal(0, 50, (4, 400)).astype(np.float32)[labels]
    both = np.hstack([others, features])
    fitted = regression_head.fit(both, labels, np.arange(len(labels)), Recipe(), 30)
    is_alone = not others_tell and each == 40
    assert fitted.kernel.shape == (430, 4)
    assert (np.abs(fitted.kernel[:400]).max() == 0) == is_alone
    assert (np.abs(fitted.components.rotated(both)).max() > 0).all()
    if is_alone:
        alone = regression_head.fit(features, labels, np.arange(len(labels)), Recipe())
        assert fitted.logits(both) == pytest.approx(alone.logits(features), abs=1e-4)


def test_head_of_a_fold_tries_what_that_of_all_pictures_tried():
    features, labels = clouds(each=40, spread=2)
    others = np.random.default_rng(1).normal(0, 50, (len(labels), 400)).astype(np.float32)
    both, numbers = np.hstack([others, features]), np.arange(len(labels))
    usual = regression_head.fit(both, labels, numbers, Recipe(), 30)
    assert usual.pictures == len(labels)
    for pictures, sees_all in ((1000, False), (1001, True)):
        of_more = dataclasses.replace(usual, pictures=pictures)
        fitted = regression_head.fit(both, labels, numbers, Recipe(), 30, of_more)
        assert (np.abs(fitted.kernel[:400]).max() > 0) == sees_all


@pytest.mark.parametrize("sees_all", [True, False])
@pytest.mark.parametrize(("each", "groups"), [(1, 4), (10, 4), (10, 40)])
def test_what_cannot_be_chosen_is_that_of_a_head_for_more_pictures(sees_all, each, groups):
    features, labels = clouds(each=each, spread=0.3)
    other = np.random.default_rng(1).normal(0, 1, (len(labels), 40)).astype(np.float32)
    both = np.hstack([other, features])
    pca = principal_components.fit_components(both[:, 0 if sees_all else 40 :], standardised=True)
    pca = pca if sees_all else pca.behind(40)
    usual = regression_head.Head(np.zeros((70, 4)), np.zeros(4), 0.0777, pca)
    numbers = labels if groups == 4 else np.arange(len(labels))
    fitted = regression_head.fit(both, labels, numbers, Recipe(), 30, usual)
    assert (fitted.strength == 0.0777) == (groups == 4)  # else other pictures can be held out
    if groups == 4:
        assert (np.abs(fitted.kernel[:40]).max() > 0) == sees_all


def test_head_for_fewer_features_takes_the_last_ones():
    fitted = regression_head.Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    assert fitted.logits(np.array([[9, 8, 1, 2]], np.float32)).tolist() == [[1, 2]]


def test_probabilities_are_a_softmax():
    fitted = regression_head.Head(np.eye(3, dtype=np.float32), np.array([0, 1, 0], np.float32), 1.0)
    features = np.array([[1, 2, 3], [500, 0, -500]], np.float32)
    expected = softmax(features + np.array([0, 1, 0]), axis=1)
    assert fitted.probabilities(features) == pytest.approx(expected, abs=1e-6)


def test_two_classes_get_two_columns():
    features, labels = clouds(classes=2, spread=0.5)
    fitted = fitted_on(features, labels, Recipe())
    assert fitted.kernel.shape == (30, 2)
    assert accuracy(fitted, features, labels) == 1


def test_noise_asks_for_a_strong_penalty_and_order_for_a_weak_one():
    random = np.random.default_rng(0)
    features, labels = clouds(spread=0.05)
    strengths = (1e-5, 0.1, 10.0)
    recipe = Recipe(head_strengths=strengths)
    assert fitted_on(features, random.permutation(labels), recipe).strength == 1e-5
    assert fitted_on(features, labels, recipe).strength == 10.0


def test_order_of_strengths_does_not_matter():
    features, labels = clouds(spread=2)
    strengths = (0.001, 0.01, 0.1, 1.0)
    chosen = {
        fitted_on(features, labels, Recipe(head_strengths=order)).strength
        for order in (strengths, strengths[::-1])
    }
    assert len(chosen) == 1


def test_class_with_a_single_picture_can_be_fitted():
    features, labels = clouds(classes=3, spread=0.3)
    keep = np.r_[0:40, 40:80, 80]
    fitted = fitted_on(features[keep], labels[keep], Recipe())
    assert fitted.kernel.shape == (30, 3)
    assert accuracy(fitted, features[keep], labels[keep]) == 1


def test_balanced_weights_give_each_class_its_share():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    found = regression_head.class_weights(labels, Recipe(class_weights="balanced"))
    assert found * [6, 3, 1] == pytest.approx([10 / 3] * 3)
    assert (regression_head.class_weights(labels, Recipe()) == 1).all()


def test_balanced_weights_do_for_a_rare_class_what_more_of_its_pictures_would(monkeypatch):
    monkeypatch.setattr(regression_head, "FINAL_TOLERANCE", 1e-6)
    features, labels = clouds(classes=2, each=60, spread=3)
    rare = np.concatenate([np.arange(60), np.arange(60, 80)])
    often = np.concatenate([np.arange(60), np.tile(np.arange(60, 80), 3)])
    one = fitted_on(
        features[rare], labels[rare], Recipe(class_weights="balanced", head_strengths=(1e-2,))
    )
    # 80 pictures weigh 80 when balanced and 120 when repeated: C times 1.5. The scale of the
    # features, which C refers to, differs a little between the two.
    plain = fitted_on(features[rare], labels[rare], Recipe(head_strengths=(1e-2,)))
    repeated = fitted_on(features[often], labels[often], Recipe(head_strengths=(1e-2 / 1.5,)))
    shares = [each.probabilities(features)[:, 1].mean() for each in (one, repeated, plain)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert shares[2] < shares[0] - 0.1


def test_two_pictures_are_enough():
    features, labels = clouds(classes=2, each=1, spread=0.1)
    assert accuracy(fitted_on(features, labels, Recipe()), features, labels) == 1


def test_folds_share_out_every_class():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [30, 9, 3]))
    fold_of = regression_head.assign_folds(labels, np.arange(42), 3)
    for label, each in ((0, 10), (1, 3), (2, 1)):
        assert np.bincount(fold_of[labels == label]).tolist() == [each] * 3


def test_groups_come_into_one_fold_and_are_shared_out_too():
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(np.arange(100, 140), 5))
    labels = groups % 2
    fold_of = regression_head.assign_folds(labels, groups, 4)
    assert all(len(set(fold_of[groups == group])) == 1 for group in groups)
    for label in (0, 1):
        assert np.bincount(fold_of[labels == label]).tolist() == [25] * 4


def test_copies_do_not_ask_for_a_weaker_penalty():
    """Every picture four times over: a head that was fitted on its copies knows it by heart."""
    features, labels = clouds(spread=4, each=20)
    features, labels, groups = (
        each.repeat(4, axis=0) for each in (features, labels, np.arange(len(labels)))
    )
    recipe = Recipe(head_strengths=(1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0))
    together = regression_head.fit(features, labels, groups, recipe)
    apart = fitted_on(features, labels, recipe)
    assert together.strength < apart.strength
