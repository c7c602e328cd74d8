"""OpenVINO models for other programs: without what only efftune needs, described in the file."""

from collections.abc import Mapping
from pathlib import Path

import openvino as ov

from efftune.model.engines import openvino_engine


def write(
    model: ov.Model, path: Path, metadata: Mapping[str, str], *, half: bool, batch: int | None
) -> None:
    """Write the probabilities of a run's network as an OpenVINO model.

    Args:
        model: as `openvino_engine.read_classifier` returns it.
        path: of the `.xml`; the weights are written beside it.
        metadata: what programs can read from the file without running it.
        half: store the weights in 16 bits.
        batch: how many pictures each call takes; any number if None.

    Raises:
        OSError: the files cannot be written.
    """
    probabilities = ov.Model([model.output("probabilities")], model.get_parameters(), "classifier")
    if batch is not None:
        _, *sides = probabilities.input().get_partial_shape()
        probabilities.reshape([batch, *sides])
    for key, value in metadata.items():
        probabilities.set_rt_info(value, ["efftune", key])
    openvino_engine.write(probabilities, path, half=half)
