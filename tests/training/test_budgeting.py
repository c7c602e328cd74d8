import math

import pytest

from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.budget import Budget
from efftune.training import budgeting, planning
from efftune.training.estimation import Prices

PICTURES = {"train": 1000, "val": 100, "test": 100}
PRICES = Prices(
    features=10,
    view=4,
    head_view=6,
    decode=3,
    tracing={"upper": 5, "whole": 5, "scratch": 5},
    epoch={"upper": 6, "whole": 20, "scratch": 30},
    judging=8,
    another=2,
)


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


def plan(backbone, name="balanced", **choices):
    recipe = Recipe.named(name, **({"augment": "standard"} | choices))
    return planning.plan(recipe, backbone, PICTURES)


def lengths(plan):
    recipe = plan.recipe
    return [stage.epochs for stage in recipe.stages], recipe.augmentation.views, recipe.members


@pytest.mark.parametrize(
    ("seconds", "epochs", "views", "members", "fits"),
    [
        # 12 epochs: 10 s for features, 1 for the head, 44 for views, 77 for steps, 8 for judging.
        # In all, 140 of which a margin is 153. Another network: 79.
        (153, 12, 11, 1, True),
        (152, 11, 10, 1, True),
        (60, 3, 2, 1, True),
        (43, 2, 1, 1, False),
        (239, 12, 11, 2, True),
        (324, 12, 11, 3, True),
        (1e6, 12, 11, 3, True),
    ],
)
def test_epochs_and_networks_fill_the_time(backbone, seconds, epochs, views, members, fits):
    made, found = budgeting.within(plan(backbone, epochs=12, views=11), PRICES, seconds)
    assert lengths(made) == ([1, epochs], views, members)
    assert found == fits


@pytest.mark.parametrize("choices", [{"members": 1}, {"whole_epochs": 4}, {"unfreeze": "all"}])
def test_networks_are_not_added_to_other_plans(backbone, choices):
    asked = plan(backbone, epochs=4, **choices)
    made, fits = budgeting.within(asked, PRICES, 1e6)
    assert made == asked
    assert fits


def test_all_stages_are_shortened_alike(backbone):
    asked = plan(backbone, epochs=8, views=4, whole_epochs=4)
    made, fits = budgeting.within(asked, PRICES, 130)
    assert fits
    (_, upper, whole), views, _ = lengths(made)
    assert 2 < upper < 8
    assert whole == round(upper / 2)
    assert views == min(4, upper - 1)
    assert sum(PRICES.phases(made).values()) <= 130
    assert budgeting.changes(made, asked) == [
        f"--budget leaves time for {upper} of 8 epochs of stage upper",
        f"--budget leaves time for {whole} of 4 epochs of stage whole",
    ]


@pytest.mark.parametrize(
    ("seconds", "block"),
    [
        # 2 epochs: 10 s for features, 1 for the head, 4 for views, 17 for steps, 8 for judging, 10
        # to measure others. From block 6: 41.5. From block 7: 37.25.
        (46, "block6a"),
        (45, "block7a"),
        (41, "block7a"),
        (40, None),
    ],
)
def test_fewer_blocks_are_trained_where_two_epochs_do_not_fit(backbone, seconds, block):
    asked = plan(backbone, epochs=12, views=11)
    assert asked.recipe.tuning.unfreeze == "block5a"
    shortest, fits = budgeting.within(asked, PRICES, 30)
    assert not fits
    higher = budgeting.higher_block(shortest, PRICES, seconds, backbone.blocks)
    assert higher == block
    if higher:
        made = planning.plan(asked.recipe.changed(unfreeze=higher), backbone, PICTURES)
        (told,) = budgeting.changes(made, asked)
        assert told == f"--budget leaves time for training from {block}, not from block5a"


@pytest.mark.parametrize(
    "choices", [{"unfreeze": "block7"}, {"unfreeze": "all"}, {"whole_epochs": 4}]
)
def test_no_fewer_blocks_are_trained_in_other_plans(backbone, choices):
    shortest, _ = budgeting.within(plan(backbone, epochs=4, **choices), PRICES, 1)
    assert budgeting.higher_block(shortest, PRICES, 1e6, backbone.blocks) is None


@pytest.mark.parametrize("name", ["scratch", "keras-example"])
def test_recipes_that_train_otherwise_are_shortened_too(backbone, name):
    asked = plan(backbone, name)
    made, fits = budgeting.within(asked, PRICES, 400)
    assert fits
    assert sum(PRICES.phases(made).values()) <= 400
    assert all(
        1 < stage.epochs < before.epochs or stage.epochs == before.epochs <= 4
        for stage, before in zip(made.recipe.stages, asked.recipe.stages, strict=True)
    )


def budget(seconds, picture_seconds=0.01):
    made = Budget(seconds)
    made.picture_seconds = picture_seconds
    return made


@pytest.mark.parametrize(
    ("name", "seconds", "tunes"),
    [
        ("balanced", math.inf, True),
        ("balanced", 15, False),
        ("balanced", 45, False),  # 12 s for features, 4.6 for heads, 25 for the least that trains
        ("balanced", 50, True),
        ("thorough", 15, False),
        ("scratch", 15, True),  # without pretrained features, there is nothing else
    ],
)
def test_head_alone_is_trained_where_there_is_no_time_for_more(name, seconds, tunes):
    made = budgeting.affordable(Recipe.named(name), PICTURES, budget(seconds))
    assert made.trains_by_gradient_descent == tunes
    if not tunes:
        made.require_effect()
        assert [stage.name for stage in made.stages] == ["head"]


def test_very_short_budgets_are_known_at_once():
    assert not budgeting.affordable(Recipe(), None, budget(15)).trains_by_gradient_descent
    assert budgeting.affordable(Recipe(), None, budget(30)).trains_by_gradient_descent
    slow = budget(30)
    slow.starting = 2.0
    assert not budgeting.affordable(Recipe(), None, slow).trains_by_gradient_descent
