import itertools

import keras
import numpy as np
import pytest
from keras import layers

from efftune.errors import DataError
from efftune.model import catalogue
from efftune.model.weights import download, readers, torch_tensors
from model.conftest import SIZE, answers, distance, each, fresh, noise, shaken

LITE0 = catalogue.model("efficientnet-lite0")
KINDS = [".npz", ".weights.h5", ".h5", ".keras"]


@pytest.fixture(scope="module")
def published():
    """The tensors of Lite0's published file."""
    return torch_tensors.read(download.ensure_downloaded(LITE0).read_bytes())


def with_head(model, classes=7):
    head = layers.Dense(classes, name="predictions", bias_initializer="random_normal")
    return keras.Model(model.input, head(model.output)), head


def write(kind, model, path):
    match kind:
        case ".npz":
            readers.save_npz(model, path)
        case ".weights.h5":
            model.save_weights(path)
        case _:
            model.save(path)


one_kind = pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.variant) for kind in KINDS[1:])]
)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("efficientnet-lite0", kind) for kind in KINDS),
        *(
            pytest.param(name, kind, marks=pytest.mark.variant)
            for name, kind in itertools.product(("efficientnet-b0", "efficientnet-v2-b0"), KINDS)
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_every_kind_of_file_gives_back_what_was_written(name, kind, tmp_path):
    model, head = with_head(fresh(name))
    path = tmp_path / f"all{kind}"
    write(kind, model, path)
    again = fresh(name, copy=1)
    kernel, bias = readers.load(again, path)
    pixels = noise()
    expected = answers(model, pixels)
    assert distance(answers(again, pixels) @ kernel + bias, expected) <= 1e-5
    assert (bias == head.get_weights()[1]).all()


@pytest.mark.ci
@one_kind
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_backbone_alone_has_no_head(kind, tmp_path):
    model = fresh("efficientnet-b0")
    path = tmp_path / f"all{kind}"
    write(kind, model, path)
    again = fresh("efficientnet-b0", copy=1)
    assert readers.load(again, path) is None
    assert distance(answers(again, noise()), answers(model, noise())) <= 1e-6


@pytest.mark.ci
@one_kind
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_weights_of_another_variant_are_refused(kind, tmp_path):
    path = tmp_path / f"all{kind}"
    write(kind, fresh("efficientnet-b0"), path)
    with pytest.raises(DataError, match=f"all{kind}"):
        readers.load(fresh("efficientnet-b2"), path)


@pytest.mark.parametrize("kind", [*KINDS, ".pth"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_file_of_another_kind_is_refused(kind, content, tmp_path):
    path = tmp_path / f"all{kind}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"all{kind}"):
        readers.load(fresh("efficientnet-lite0"), path)


def test_unknown_suffix_is_refused(tmp_path):
    path = tmp_path / "weights.tflite"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"tflite is unknown.*\.h5, \.keras, \.npz, \.pth"):
        readers.load(fresh("efficientnet-lite0"), path)


def test_arrays_with_code_in_them_are_refused(tmp_path):
    path = tmp_path / "all.npz"
    np.savez(path, **{"stem_conv/kernel": np.array([print], dtype=object)})
    with pytest.raises(DataError, match="cannot be read"):
        readers.load(fresh("efficientnet-lite0"), path)


@pytest.mark.long
def test_published_statistics_are_standard_deviations(tmp_path):
    """As `keras.applications` mends it: divided by the deviation, not by its root."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    other = keras.applications.EfficientNetB0(
        weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3)
    )
    shaken(other)
    norm = next(each for each in other.layers if isinstance(each, layers.Normalization))
    norm.set_weights([mean, deviation, np.zeros(())])
    other.save_weights(tmp_path / "published.weights.h5")
    model = fresh("efficientnet-b0")
    readers.load(model, tmp_path / "published.weights.h5")
    norm.set_weights([mean, deviation**2, np.zeros(())])
    norm.finalize_state()
    assert distance(answers(model, noise()), answers(other, noise())) <= 1e-5


def test_every_tensor_finds_its_layer(published, tmp_path, monkeypatch):
    """All tensors but the counters are used, each once."""
    used = []

    class Watched(dict):
        def __getitem__(self, name):
            used.append(name)
            return super().__getitem__(name)

        def get(self, name):
            return self[name]

    monkeypatch.setattr(torch_tensors, "read", lambda _content: Watched(published))
    (tmp_path / "all.pth").write_bytes(b"")
    readers.load(fresh("efficientnet-lite0"), tmp_path / "all.pth")
    assert sorted(used) == sorted(name for name in published if "num_batches" not in name)


def test_torch_weights_of_another_variant_are_refused():
    with pytest.raises(DataError, match="does not fit efficientnet-lite2"):
        readers.load(fresh("efficientnet-lite2"), download.ensure_downloaded(LITE0))


def timm_tensors(model, head):
    """A model's weights under timm's names and in PyTorch's order of axes."""
    names = readers._timm_names(model)
    tensors = {}
    for layer in (*model.layers, head):
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
        elif layer.weights and not isinstance(layer, layers.Normalization):
            parts = ("weight", "bias")
        else:
            continue
        for part, value in zip(parts, layer.get_weights(), strict=False):
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(value.ndim)
            if isinstance(layer, layers.DepthwiseConv2D):
                axes = (2, 3, 0, 1)
            turned = value.transpose(axes) if axes else value
            tensors[f"{names[layer.name]}.{part}"] = turned
    return tensors


# Some of each kind of block, as timm's `state_dict()` lists them.
TIMM = {
    "efficientnet-b0": {
        "conv_stem.weight": (32, 3, 3, 3),
        "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
        "blocks.0.0.bn1.running_var": (32,),
        "blocks.0.0.se.conv_reduce.bias": (8,),
        "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
        "blocks.0.0.bn2.weight": (16,),
        "blocks.5.3.conv_pw.weight": (1152, 192, 1, 1),
        "blocks.5.3.bn1.bias": (1152,),
        "blocks.5.3.conv_dw.weight": (1152, 1, 5, 5),
        "blocks.5.3.bn2.bias": (1152,),
        "blocks.5.3.se.conv_expand.weight": (1152, 48, 1, 1),
        "blocks.5.3.conv_pwl.weight": (192, 1152, 1, 1),
        "blocks.5.3.bn3.running_mean": (192,),
        "conv_head.weight": (1280, 320, 1, 1),
        "bn2.weight": (1280,),
        "classifier.weight": (7, 1280),
    },
    "efficientnet-v2-s": {
        "bn1.weight": (24,),
        "blocks.0.1.conv.weight": (24, 24, 3, 3),
        "blocks.0.1.bn1.weight": (24,),
        "blocks.1.0.conv_exp.weight": (96, 24, 3, 3),
        "blocks.1.0.bn1.weight": (96,),
        "blocks.1.0.conv_pwl.weight": (48, 96, 1, 1),
        "blocks.1.0.bn2.weight": (48,),
        "blocks.5.14.bn3.weight": (256,),
    },
}


@pytest.mark.ci
@pytest.mark.parametrize("name", each(TIMM))
def test_timms_names_are_known(name, tmp_path, monkeypatch):
    model, head = with_head(fresh(name))
    if name == "efficientnet-b0":  # PyTorch files say nothing of the pixels' statistics
        readers.normalize(model.get_layer("normalization"))
    tensors = timm_tensors(keras.Model(model.input, model.layers[-2].output), head)
    for key, shape in TIMM[name].items():
        assert tensors[key].shape == shape
    monkeypatch.setattr(torch_tensors, "read", lambda _content: tensors)
    (tmp_path / "tf.pth").write_bytes(b"")
    again = fresh(name, copy=1)
    if name == "efficientnet-b0":
        readers.normalize(again.get_layer("normalization"))
    kernel, bias = readers.load(again, tmp_path / "tf.pth")
    expected = answers(model, noise())
    assert distance(answers(again, noise()) @ kernel + bias, expected) <= 1e-5
