"""Our networks against timm's own, with random weights: `pip install torch timm safetensors`."""

import json

import numpy as np
import pytest

from efftune.model import architectures, catalogue
from efftune.model.weights import download
from model.conftest import SIZE, answers

pytestmark = pytest.mark.torch
SHORT = [entry.short_name for entry in catalogue.models()]
PLAIN = [name for name in SHORT if not name.startswith("v2-b")]  # timm has no plain V2-B0 to B3


def timm_name(short, *, plain=False):
    name = short.replace("v2-b", "v2_b").replace("v2-", "v2_") if "v2" in short else f"_{short}"
    return f"{'' if plain else 'tf_'}efficientnet{name}"


def random_model(name, size, seed=0):
    """A model of timm's with random tensors; the statistics of its norms fit pictures of a size.

    So activations neither vanish nor grow, however deep it is. The kernels are small, so that
    variances are, too, and the epsilon of BatchNorm tells.
    """
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    model = timm.create_model(name, pretrained=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.8, 1.2, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, 0.3 * fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
        batch = torch.from_numpy(scaled(model, pixels_of(size)))
        model.train()(torch.cat([batch, batch.flip(1), batch.flip(2), batch.roll(9, 3)]))
    return model.eval()


def scaled(model, pixels):
    """Pixels, 0 to 255, as timm scales them for a model: float32, channels first."""
    mean, std = (np.array(model.pretrained_cfg[key], np.float32) for key in ("mean", "std"))
    return ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


def outputs(model, pixels):
    """Features and logits that timm computes for pixels, 0 to 255, in float64.

    In float32 its own rounding alone reaches 7e-4 in the deepest networks.
    """
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        batch = torch.from_numpy(scaled(model, pixels)).double()
        pooled = model.double().forward_head(model.forward_features(batch), pre_logits=True)
        return pooled.numpy(), model.classifier(pooled).numpy()


def ours(short, path, pixels):
    """Features and logits that we compute with the weights in a file."""
    entry = catalogue.model(f"efficientnet-{short}")
    found = download.locate(entry, path)
    model, (kernel, bias) = architectures.pretrained(entry, pixels.shape[1], found)
    features = answers(model, pixels)
    return features, features @ kernel + bias


def pixels_of(size):
    """Noise, and a smooth picture of other colours, float32 (2, size, size, 3)."""
    noise = np.random.default_rng(1).integers(0, 256, (size, size, 3))
    ramp = np.linspace(0, 255, size)
    smooth = np.stack([np.tile(ramp, (size, 1)), np.tile(ramp, (size, 1)).T, 0 * noise[..., 0]], 2)
    return np.stack([noise, smooth]).astype(np.float32)


def assert_equal_outputs(short, name, path, size):
    model = random_model(name, size)
    config = model.pretrained_cfg
    mean, std = (np.array(config[key], np.float32) for key in ("mean", "std"))
    described = {
        "architecture": name,
        "pretrained_cfg": {"mean": mean.tolist(), "std": std.tolist()},
    }
    (path.parent / "config.json").write_text(json.dumps(described))
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(model.state_dict(), path)
    else:
        pytest.importorskip("torch").save(model.state_dict(), path)
    pixels = pixels_of(size)
    for mine, theirs in zip(ours(short, path, pixels), outputs(model, pixels), strict=True):
        assert np.abs(theirs[0] - theirs[1]).max() > 0.05  # the pictures tell
        assert np.abs(mine - theirs).max() <= 1e-3


@pytest.mark.parametrize("short", SHORT)
def test_networks_with_tensorflows_padding_give_what_timm_gives(short, tmp_path):
    path = tmp_path / "model.safetensors"
    assert_equal_outputs(short, timm_name(short), path, SIZE)


@pytest.mark.parametrize("short", PLAIN)
def test_networks_with_symmetric_padding_give_what_timm_gives(short, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    assert_equal_outputs(short, timm_name(short, plain=True), path, SIZE)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("short", ["lite0", "b0", "v2-s"])
def test_odd_sizes_are_padded_as_timm_pads_them(short, plain, tmp_path):
    path = tmp_path / "model.safetensors"
    assert_equal_outputs(short, timm_name(short, plain=plain), path, 75)
