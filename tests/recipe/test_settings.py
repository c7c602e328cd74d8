import pytest

from efftune.errors import UsageError
from efftune.recipe.recipe import Recipe
from efftune.recipe.settings import merged_choices, read_choices


def test_later_choices_win(tmp_path):
    (tmp_path / "r.toml").write_text("seed = 1\nviews = 1\nfit = 'pad'\n")
    choices = merged_choices(
        tmp_path / "r.toml", ["views=2", "fit=stretch"], {"seed": 3, "fit": None}
    )
    assert choices == {"seed": 3, "views": 2, "fit": "stretch"}


def test_set_takes_lists_and_bare_words():
    choices = merged_choices(None, ["head_strengths=[0.1, 1]", "missing_classes = allow"], {})
    assert Recipe.named("quick", **choices).head.strengths == (0.1, 1.0)
    assert choices["missing_classes"] == "allow"


@pytest.mark.parametrize("setting", ["views", "=3", ""])
def test_malformed_set_is_shown(setting):
    with pytest.raises(UsageError, match="KEY=VALUE"):
        merged_choices(None, [setting], {})


def test_settings_file_that_is_not_toml_is_named(tmp_path):
    (tmp_path / "r.toml").write_text("views: 3")
    with pytest.raises(UsageError, match=r"r\.toml is not a TOML file"):
        read_choices(tmp_path / "r.toml")


def test_missing_settings_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.toml: No such file"):
        read_choices(tmp_path / "gone.toml")


def test_file_of_another_recipe_is_refused(tmp_path):
    whole = tmp_path / "recipe.toml"
    whole.write_text(Recipe.named("balanced").to_toml())
    assert merged_choices(whole, [], {"name": "balanced"})["name"] == "balanced"
    assert merged_choices(whole, [], {"name": None})["name"] == "balanced"
    with pytest.raises(UsageError, match="all settings of a recipe balanced, so --recipe quick"):
        merged_choices(whole, [], {"name": "quick"})
    some = tmp_path / "some.toml"
    some.write_text('image_size = 64\nname = "scratch"')
    assert merged_choices(some, [], {"name": "quick"}) == {"image_size": 64, "name": "quick"}
    with pytest.raises(UsageError, match="all settings of a recipe balanced, so --recipe quick"):
        merged_choices(whole, ["name=quick"], {"name": None})
