import numpy as np
import pytest

from efftune.errors import UsageError
from efftune.model.backbone import Backbone
from efftune.model.inference import Network


def output(backbone):
    result = []
    network = Network(backbone.openvino_model, size=32)
    pixels = np.full((1, 32, 32, 3), 90, np.uint8)
    network.run([0], lambda _i: pixels, lambda _i, _n, rows: result.append(rows[0].copy()))
    return result[0]


@pytest.mark.parametrize("damage", [b"", b"<net/>"])
def test_damaged_conversion_is_noticed_and_rebuilt(own_cache, damage):
    good = output(Backbone("efficientnet-lite0", 32))
    (kept,) = own_cache.glob("backbones/*/model.xml")
    kept.write_bytes(damage)
    assert (output(Backbone("efficientnet-lite0", 32)) == good).all()
    assert kept.stat().st_size > 1000


def test_kept_conversion_needs_no_keras_model(own_cache):
    output(Backbone("efficientnet-lite0", 32))
    again = Backbone("efficientnet-lite0", 32)
    output(again)
    assert "keras_model" not in vars(again)


def test_unknown_model_is_refused():
    with pytest.raises(UsageError, match="Unknown model 'resnet'"):
        Backbone("resnet")
