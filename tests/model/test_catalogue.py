import pytest

from efftune.errors import DataError, UsageError
from efftune.model import catalogue


def test_weights_in_packages_are_the_pinned_ones():
    packaged = [entry for entry in catalogue.models() if entry.weights.package]
    assert len(packaged) == 3
    for entry in packaged:
        assert entry.weights.path is not None, f"{entry.weights.package} is not installed"
        entry.weights.require_published(entry.weights.path)


def test_other_weights_are_refused(tmp_path):
    weights = catalogue.model("efficientnet-lite0").weights
    content = weights.path.read_bytes()
    path = tmp_path / "lite0.pth"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"lite0\.pth is not the published one"):
        weights.require_published(path)


def test_every_model_has_a_name_and_weights_of_its_own():
    entries = catalogue.models()
    assert len(entries) == 20
    for values in zip(
        *((e.name, e.weights.source, e.weights.checksum) for e in entries), strict=True
    ):
        assert len(set(values)) == 20


@pytest.mark.parametrize("entry", catalogue.models(), ids=lambda entry: entry.name)
def test_models_have_short_names(entry):
    assert catalogue.model(entry.short_name) == catalogue.model(entry.name) == entry


def test_unknown_model_is_named_with_a_guess():
    with pytest.raises(UsageError, match="Did you mean 'efficientnet-lite0'"):
        catalogue.model("efficientnet-lite00")


@pytest.mark.parametrize(
    ("weights", "began_with", "licence"),
    [("imagenet", "sha256:1", "Apache-2.0"), ("imagenet", "none", ""), ("mine.h5", "sha256:2", "")],
)
def test_licence_is_that_of_the_weights_that_training_began_with(weights, began_with, licence):
    model = {"name": "efficientnet-lite0", "weights": began_with}
    assert catalogue.licence(model, weights) == licence
