"""Which network a weights file was trained in: its padding and its preprocessing.

The tensors of timm's `tf_efficientnet_b0` and `efficientnet_b0` have the same names and shapes, and
so have those of networks with other preprocessing. What tells them apart is beside the tensors.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from efftune.errors import DataError
from efftune.model import catalogue
from efftune.model.weights_table import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INCEPTION,
    INCEPTION_MEAN,
    INCEPTION_STD,
    OWN,
    Graph,
    Padding,
)

_CONFIG = "config.json"
_TENSORS = (".pth", ".pt", ".bin", ".safetensors")
_TIMM = re.compile(r"(tf_)?efficientnet(v2)?_(b\d|lite\d|s|m|l)(?![a-z0-9])")
_HUB_FOLDER = re.compile(r"models--[^/]*--(.+)")  # in the cache of Hugging Face's hub


def recognise(entry: catalogue.Model, path: Path, sha256: str) -> Graph:
    """The network that a file of the user's was trained in.

    A published file is known by its content, and a `.keras` file by the graph in it. Other files of
    PyTorch's tensors are known by the `config.json` that timm's hub puts beside them, or else by
    the name of a timm model in the file's or its folder's name, such as `efficientnet_b0_ra.pth`.
    Otherwise it is the family's own.

    Args:
        entry: the model that the weights are for.
        path: the file.
        sha256: hexadecimal digits of its checksum.

    Raises:
        DataError: the `config.json` beside it is damaged.
    """
    for weights in entry.published:
        kind, digits = weights.checksum.split(":")
        if kind == "sha256" and sha256.startswith(digits):
            return weights.graph
    if path.name.lower().endswith(".keras"):
        return _of_keras(path)
    if not path.name.lower().endswith(_TENSORS):
        return OWN
    config = path.parent / _CONFIG
    graph = _of_config(config) if config.is_file() else None
    return graph or _of_name(_timm_name(path))


def _of_keras(path: Path) -> Graph:
    """The network in a `.keras` file, such as `model.keras` of a run."""
    try:
        with zipfile.ZipFile(path) as archive:
            layers = {each["name"]: each for each in _configs(json.loads(archive.read(_CONFIG)))}
    # Whoever reads the weights names the file and what is wrong with it.
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return OWN
    epsilon = layers.get("stem_bn", {}).get("epsilon", 1e-3)
    padding: Padding = "symmetric" if epsilon < 1e-4 else "same"
    scaling = layers.get("preprocessing", layers.get("rescaling", {}))
    if isinstance(scaling.get("scale"), list):  # which only networks of other weights have
        std = _three([1 / (255 * scale) for scale in scaling["scale"]])
        pairs = zip(scaling["offset"], std, strict=True)
        return Graph(padding, _three([-offset * value for offset, value in pairs]), std)
    statistics = layers.get("normalization", {})
    if statistics.get("mean") and not np.allclose(statistics["mean"], IMAGENET_MEAN):
        std = _three(np.sqrt(statistics["variance"]).tolist())
        return Graph(padding, _three(statistics["mean"]), std)
    return Graph(padding)


def _configs(node: Any) -> Iterator[dict[str, Any]]:
    """The configurations of all layers, those of nested models too."""
    if isinstance(node, dict):
        if isinstance(node.get("config"), dict) and "name" in node["config"]:
            yield node["config"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _configs(each)


def _of_config(path: Path) -> Graph | None:
    """The network that timm's `config.json` describes; None if it is of another program."""
    try:
        config = json.loads(path.read_text("utf-8"))
        architecture = config.get("architecture", "")
        if not _TIMM.match(architecture):
            return None
        # Older files have the keys of `pretrained_cfg` at the top.
        described: dict[str, Any] = config.get("pretrained_cfg") or config
        padding = _padding(architecture)
        mean, std = (_three(described[key]) for key in ("mean", "std"))
        return Graph(padding, mean, std)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}, which is beside the weights file, cannot be read as timm's: "
            f"{type(error).__name__} {error}. Mend it, or move the weights file away from it."
        ) from None


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _timm_name(path: Path) -> str:
    """The name of the timm model in a file's name, or in that of its folder in the hub's cache."""
    folders = [match[1] for part in path.parts if (match := _HUB_FOLDER.fullmatch(part))]
    # A folder that only holds the model, such as `tf_efficientnet_b0.ap_in1k`, has a tag.
    tagged = [path.parent.name] if "." in path.parent.name else []
    names = (path.name.lower(), *tagged, *folders)
    return next((name for name in names if _TIMM.match(name) or name.startswith("adv-")), "")


def _of_name(name: str) -> Graph:
    if name.startswith("adv-efficientnet"):  # AdvProp's in `efficientnet-pytorch`
        return INCEPTION
    if not _TIMM.match(name):
        return OWN
    if _padding(name) == "symmetric":
        inception = "ra4" in name
        mean = INCEPTION_MEAN if inception else IMAGENET_MEAN
        return Graph("symmetric", mean, INCEPTION_STD if inception else IMAGENET_STD)
    return INCEPTION if re.search(r"[._]ap[-_.]|21k|21ft1k", name) else OWN


def _padding(architecture: str) -> Padding:
    return "same" if architecture.startswith("tf_") else "symmetric"
