"""The program that quantizes a run's OpenVINO model with NNCF, in a process of its own.

python -m efftune.delivery.nncf_conversion RUN PATH PIXELS [JUDGED]

PIXELS is the `.npy` file of pictures to calibrate with. With JUDGED, an `.npz` file of `pixels`,
`classes` and `max_drop`, the layers that cost most are left in floating point until the share of
pictures that are given their class has dropped by at most that.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_FIRST = 3  # convolutions, which see all pixels in few channels and lose most by 8 bits
_MOST_SPARED = 10  # groups of layers; if so many do not help, 16 bits are the better way
_RANKED = 50  # pictures that rank the layers


def main() -> None:
    """Quantize weights and activations to 8 bits; what is left is stored in 16."""
    import nncf
    import openvino as ov
    from nncf.quantization.advanced_parameters import (
        AdvancedAccuracyRestorerParameters,
        AdvancedQuantizationParameters,
        OverflowFix,
    )

    from efftune.delivery import openvino_file
    from efftune.model.engines import openvino_engine

    run, path = Path(sys.argv[1]), Path(sys.argv[2])
    model = openvino_file.probabilities(openvino_engine.read_classifier(run))
    pixels = np.load(sys.argv[3], mmap_mode="r")
    calibration = nncf.Dataset(pixels, _as_input)
    settings = {
        "subset_size": len(pixels),
        "fast_bias_correction": False,
        "ignored_scope": nncf.IgnoredScope(names=_convolutions(model)[:_FIRST]),
    }
    # Processors without instructions for 8 bits add products in 16 bits, which would overflow.
    careful = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
    if len(sys.argv) == 4:
        done = nncf.quantize(model, calibration, advanced_parameters=careful, **settings)
    else:
        judged = np.load(sys.argv[4])
        examples = list(zip(judged["pixels"], judged["classes"], strict=True))
        done = nncf.quantize_with_accuracy_control(
            *(model, calibration, nncf.Dataset(examples), _accuracy),
            max_drop=float(judged["max_drop"]),
            advanced_quantization_parameters=careful,
            advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                max_num_iterations=_MOST_SPARED, ranking_subset_size=_RANKED
            ),
            **settings,
        )
    ov.save_model(done, path, compress_to_fp16=True)


def _convolutions(model: Any) -> list[str]:
    """Names of the convolutions, from the pixels on."""
    return [
        each.get_friendly_name()
        for each in model.get_ordered_ops()
        if each.get_type_name() in ("Convolution", "GroupConvolution")
    ]


def _as_input(pixels: Any) -> Any:
    return pixels[None].astype(np.float32)


def _accuracy(model: Any, examples: Iterable[Any]) -> tuple[float, list[float]]:
    """The share of pictures that are given their class, and whether each is."""
    right = [float(model(_as_input(pixels))[0].argmax() == label) for pixels, label in examples]
    return float(np.mean(right)), right


if __name__ == "__main__":
    main()
