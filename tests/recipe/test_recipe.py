import copy
import dataclasses
import math
import pickle
import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efftune.errors import UsageError
from efftune.recipe.recipe import RECIPES, Recipe

Recipe(seed=1)  # imports pydantic, which Hypothesis would take for a slow draw

recipes = st.builds(
    Recipe,
    model=st.text(min_size=1, max_size=20),
    image_size=st.integers(0, 1024),
    fit=st.sampled_from(["stretch", "crop", "pad"]),
    val=st.floats(0.01, 0.5),
    test=st.floats(0.01, 0.5),
    views=st.integers(0, 64),
    unfreeze=st.sampled_from(["none", "all", "block5", "block6b"]),
    learning_rate=st.floats(1e-6, 10),
    train_depthwise=st.booleans(),
    head_strengths=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5).map(tuple),
    seed=st.integers(0, 2**32 - 1),
)


@given(recipes)
def test_recipe_survives_toml(recipe):
    assert Recipe.named("quick", **tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"views": -1}, "views = -1"),
        ({"val": 0.9}, "val = 0.9"),
        ({"fit": "squash"}, "fit = 'squash'"),
        ({"image_size": "big"}, "image_size = 'big'"),
        ({"veiws": 2}, "Did you mean 'views'"),
        ({"head_strengths": []}, "head_strengths"),
    ],
)
def test_impossible_choice_is_named(choices, words):
    with pytest.raises(UsageError, match=words):
        Recipe.named("quick", **choices)


@pytest.mark.parametrize(
    "choices",
    [
        {"head": {"epochs": 4}},
        {"head.epochs": 4},
        {"head_epochs": 4},
        {"head": Recipe(head_epochs=4).head},
    ],
)
def test_setting_is_taken_by_name_or_section(choices):
    assert Recipe(**choices) == Recipe(head_epochs=4)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"tunning": {"epochs": 3}}, "Unknown recipe setting 'tunning'. Did you mean 'tuning'"),
        ({"tuning": {"epoch": 3}}, "Did you mean 'tuning.epochs'"),
        ({"tuning": 3}, "tuning is a section of settings.* such as tuning.unfreeze"),
        ({"": {"seed": 3}}, "Unknown recipe setting ''"),
    ],
)
def test_unknown_section_is_named_without_all_settings(choices, words):
    with pytest.raises(UsageError, match=words) as error:
        Recipe(**choices)
    assert len(str(error.value)) < 100 or "Did you mean" not in str(error.value)


def test_recipe_can_be_copied_replaced_and_pickled():
    recipe = Recipe.named("thorough", unfreeze="block6", seed=3)
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    assert dataclasses.replace(recipe, seed=4) == recipe.changed(seed=4)


def test_unknown_recipe_is_named():
    with pytest.raises(UsageError, match=r"Unknown recipe 'quik'. Did you mean 'quick'"):
        Recipe.named("quik")


@pytest.mark.parametrize("choices", [{"learning_rate": 0.01}, {"views": 3}, {"ema": 0.9}])
def test_choice_made_in_vain_is_named(choices):
    Recipe.named("quick", seed=3, fit="pad", class_weights="balanced").require_effect()
    Recipe.named("quick", unfreeze="block7", **choices).require_effect()
    with pytest.raises(UsageError, match=f"{next(iter(choices))} would have no effect"):
        Recipe.named("quick", **choices).require_effect()


@pytest.mark.parametrize(
    ("name", "choices", "why"),
    [
        ("scratch", {"epochs": 5}, "epochs would have no effect: .* Use --set scratch_epochs"),
        ("scratch", {"learning_rate": 0.1}, "Use --set scratch_learning_rate"),
        ("scratch", {"unfreeze": "block6"}, "unfreeze would have no effect: nothing is fine-tuned"),
        ("quick", {"phases": ("head",), "unfreeze": "block6"}, "add tune to --phases"),
        ("quick", {"head_epochs": 3, "epochs": 5}, "epochs would have no effect: .* Omit it"),
    ],
)
def test_setting_of_what_is_not_done_is_refused(name, choices, why):
    with pytest.raises(UsageError, match=why):
        Recipe.named(name, **choices).require_effect()


@pytest.mark.parametrize(
    ("name", "choices", "note"),
    [
        ("scratch", {"activations": "bfloat16"}, "activations has no effect: nothing is fine"),
        ("scratch", {"head_strengths": (0.1,)}, "head_strengths has no effect: no head"),
        ("balanced", {"scratch_epochs": 3}, "scratch_epochs has no effect: nothing is trained"),
        ("balanced", {"whole_learning_rate": 0.1}, "whole_learning_rate .*whole_epochs is 0"),
        ("balanced", {"head_learning_rate": 0.1}, "head_learning_rate .*by regression"),
        ("balanced", {"mix_alpha": 0.5}, "mix_alpha has no effect: mix is none"),
        ("balanced", {"optimizer": "adam", "weight_decay": 0.1}, "weight_decay .*not adamw"),
    ],
)
def test_setting_in_a_file_for_several_recipes_is_noted(name, choices, note):
    recipe = Recipe.named(name, **choices)
    recipe.require_effect()
    (found,) = recipe.without_effect
    assert re.match(note, found)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("scratch", {"layer_decay": 0.5}),  # which is of all stages
        ("quick", {"head_epochs": 2, "memory": 1.0}),
        ("balanced", {"phases": ("head",), "unfreeze": "none"}),
        ("scratch", {"epochs": 30, "views": 15}),  # as older runs wrote them
    ],
)
def test_settings_that_have_effect_or_do_no_harm_pass(name, choices):
    recipe = Recipe.named(name, **choices)
    recipe.require_effect()
    assert [note for note in recipe.without_effect if "epochs" not in note] == []


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_as_they_are_have_effect(name):
    recipe = Recipe.named(name)
    recipe.require_effect()
    assert recipe.without_effect == ()
    if recipe.trains_by_gradient_descent:
        recipe.changed(batch_size=64).resolved(1000).require_effect()
    if recipe.can_cross_validate:
        recipe.head_only().require_effect()
    trained = recipe.changed(batch_size=64, head_epochs=2).resolved(1000).without_tuning()
    if "head" in recipe.phases:
        trained.require_effect()
        assert trained.without_effect == ()


@pytest.mark.parametrize("choices", [{"unfreeze": "all"}, {"whole_epochs": 2}])
def test_ensemble_of_networks_that_share_nothing_is_refused(choices):
    Recipe.named("thorough").require_effect()
    Recipe.named("thorough", members=1, **choices).require_effect()
    with pytest.raises(UsageError, match="members=1"):
        Recipe.named("thorough", **choices).require_effect()


@pytest.mark.parametrize("name", ["quik", ["quick"], 1])
def test_recipe_that_does_not_exist_is_named(name):
    with pytest.raises(UsageError, match="Unknown recipe"):
        Recipe.named(name)


def test_recipe_cannot_be_changed_in_place():
    with pytest.raises(AttributeError, match="cannot assign"):
        Recipe().seed = 3


@pytest.mark.parametrize(
    ("given", "share"), [("2%", 0.02), ("0.5 %", 0.005), ("0.1", 0.1), (0.03, 0.03), ("0", 0.0)]
)
def test_share_of_errors_may_be_in_percent(given, share):
    assert Recipe(max_error=given).evaluation.max_error == pytest.approx(share)


@pytest.mark.parametrize("given", ["two", "60%", "-1%", "%", 0.6, ""])
def test_share_of_errors_out_of_range_is_refused(given):
    with pytest.raises(UsageError, match="max_error"):
        Recipe().changed(max_error=given)


@pytest.mark.parametrize(
    ("choices", "stages"),
    [
        ({"unfreeze": "none"}, ["head"]),
        ({}, ["head", "upper"]),
        ({"whole_epochs": 2}, ["head", "upper", "whole"]),
        ({"unfreeze": "all"}, ["head", "whole"]),
        ({"unfreeze": "all", "epochs": 7}, ["head", "whole"]),
        ({"epochs": 0, "whole_epochs": 2}, ["head", "whole"]),
        ({"phases": ["scratch"], "whole_epochs": 2}, ["scratch"]),
        ({"phases": ["tune", "scratch", "head"]}, ["scratch", "head", "upper"]),
        ({"phases": ["head"], "whole_epochs": 2}, ["head"]),
    ],
)
def test_stages_follow_from_the_choices(choices, stages):
    recipe = Recipe(**choices)
    assert [stage.name for stage in recipe.stages] == stages
    assert recipe.trains_by_gradient_descent == (stages != ["head"])
    if choices.get("epochs") == 7:
        assert recipe.stages[-1].epochs == 7


@pytest.mark.parametrize(
    ("pictures", "epochs", "views"), [(10, 30, 15), (1259, 10, 9), (3068, 4, 3), (100_000, 3, 2)]
)
def test_few_pictures_get_more_epochs(pictures, epochs, views):
    decided = Recipe(batch_size=64).resolved(pictures)
    assert (decided.tuning.epochs, decided.augmentation.views) == (epochs, views)
    assert Recipe(batch_size=64, epochs=2, views=7).resolved(pictures).augmentation.views == 7
    assert Recipe(batch_size=64, augment="none").resolved(pictures).augmentation.views == 0


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"phases": ["tune"]}, "add head to --phases"),
        ({"weights": "none"}, "use --recipe scratch"),
        ({"phases": ["head"], "epochs": 3}, "epochs would have no effect"),
    ],
)
def test_phases_that_cannot_be_are_refused(choices, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**choices).require_effect()


@pytest.mark.parametrize("phases", [[], ["head", "head"], ["heads"]])
def test_phases_that_are_none_are_refused(phases):
    with pytest.raises(UsageError, match="phases"):
        Recipe.named("balanced", phases=phases)


def test_head_alone_by_gradient_descent_trains_something():
    recipe = Recipe.named("keras-example", phases=("head",), head_learning_rate=1e-3)
    assert recipe.trains_by_gradient_descent
    recipe.require_effect()


def test_public_example_has_its_own_numbers():
    recipe = Recipe.named("keras-example").resolved(12_000)
    stages = [(stage.name, stage.epochs, stage.learning_rate) for stage in recipe.stages]
    assert stages == [("scratch", 40, 1e-3), ("head", 25, 1e-2), ("upper", 4, 1e-5)]
    assert (
        recipe.augmentation.views,
        recipe.optimization.batch_size,
        recipe.optimization.dropout,
    ) == (4, 64, 0.2)


def test_unknown_block_is_a_clear_error():
    with pytest.raises(UsageError, match=r"unfreeze = .blok5.: .*expected a block, such as block5"):
        Recipe.named("balanced", unfreeze="blok5")


@pytest.mark.parametrize(
    ("value", "expected"), [(0.2, 0.2), ("0.2", 0.2), ("20%", 0.2), ("photos/val", "photos/val")]
)
def test_held_out_pictures_are_a_share_or_a_path(value, expected):
    recipe = Recipe(test=value)
    assert recipe.data.test == expected
    is_path = isinstance(expected, str)
    assert recipe.data.shares == (0.15, 0.0 if is_path else expected)
    assert recipe.data.held_out == ({"test": expected} if is_path else {})
    assert Recipe(**tomllib.loads(recipe.to_toml())) == recipe


def test_recipes_of_earlier_versions_are_read():
    assert Recipe(data={"val_fraction": 0.3}, test_fraction=0.1) == Recipe(val=0.3, test=0.1)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"folds": 5, "test": 0.2}, "give one or the other"),
        ({"folds": 5, "val": "photos/val"}, "give one or the other"),
        ({"folds": 5, "head_epochs": 3}, "needs a head that is fitted by regression"),
        ({"folds": 5, "phases": ("scratch",)}, "needs a head that is fitted by regression"),
    ],
)
def test_folds_that_cannot_judge_are_refused(choices, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**choices).require_effect()


@pytest.mark.parametrize("folds", [1, "1", -1, 21, "many"])
def test_folds_that_are_none_are_refused(folds):
    with pytest.raises(UsageError, match="folds"):
        Recipe(folds=folds)
    with pytest.raises(UsageError, match="20 folds or fewer"):
        Recipe(folds="21")


def test_folds_are_a_number_auto_or_none():
    assert [Recipe(folds=each).data.folds for each in ("auto", 0, "5")] == ["auto", 0, 5]
    assert Recipe().data.shares == Recipe(val="auto", test="auto").data.shares == (0.15, 0.15)
    assert Recipe().data.held_out == {}
    assert Recipe(folds=0, test=0.2).data.chooses_held_out


@pytest.mark.parametrize(
    ("text", "kept", "limits"),
    [
        ("20 ms", "20 ms", (20, math.inf)),
        ("5MB", "5 MB", (math.inf, 5)),
        ("15 mb, 0.02 s", "20 ms, 15 MB", (20, 15)),
        ("500 kB and 900us", "0.9 ms, 0.5 MB", (0.9, 0.5)),
        ("", "", (math.inf, math.inf)),
    ],
)
def test_goal_limits_time_and_size(text, kept, limits):
    recipe = Recipe(goal=text)
    assert (recipe.goal, recipe.limits) == (kept, limits)
    assert Recipe(**tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    "text", ["20", "ms", "3 apples", "0 ms", "-1 MB", "5 ms, 6 ms", "1 ms 2 MB", ",", "1e-9 ms", 20]
)
def test_goal_that_limits_nothing_is_refused(text):
    with pytest.raises(UsageError, match="give a time, a size or both, such as 20 ms"):
        Recipe(goal=text)


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9))
def test_goal_is_read_as_it_is_written(milliseconds, megabytes):
    goal = Recipe(goal=f"{milliseconds:.6f} ms, {megabytes:.6f} MB").goal
    assert Recipe(goal=goal).goal == goal


@pytest.mark.parametrize("key", ["val", "test", "labels", "root", "weights"])
def test_path_that_cannot_be_written_down_is_refused(key):
    with pytest.raises(UsageError, match=rf"{key} = 'caf\\udce9': not UTF-8: rename"):
        Recipe(**{key: "caf\udce9"})


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"epochs": "x"}, "epochs = 'x': Input should be 'auto', or a valid integer"),
        ({"epochs": -1}, "or greater than or equal to 0"),
        ({"batch_size": "x"}, "a valid integer, unable to parse string as an integer, or 'auto'"),
        ({"seed": "x"}, "seed = 'x': Input should be a valid integer"),
    ],
)
def test_value_of_several_types_is_told_all_of_them(choices, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        Recipe.named("balanced", **choices)


def test_paths_may_be_objects(tmp_path):
    path = tmp_path / "labels.csv"
    recipe = Recipe.named("quick", labels=path, val=path, data={"root": tmp_path}, weights=path)
    assert (recipe.data.labels, recipe.data.val) == (str(path), str(path))
    assert (recipe.data.root, recipe.backbone.weights) == (str(tmp_path), str(path))
