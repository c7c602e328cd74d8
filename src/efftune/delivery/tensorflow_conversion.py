"""The program that converts a run's Keras model with TensorFlow, in a process of its own.

python -m efftune.delivery.tensorflow_conversion RUN PATH KIND [TEMPERATURE [PIXELS]]

KIND is `saved` or `saved-1` (which takes one picture at a time), or for LiteRT `f32`, `f16`,
`f16-bytes` or `int8`, where TEMPERATURE divides the logits. The last needs PIXELS, the `.npy` file
of pictures to calibrate with. The last two take and give bytes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Convert the model of a run."""
    import tensorflow as tf

    from efftune.model.engines.saved import load_keras

    run, path, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    model = load_keras(run)
    if kind.startswith("saved"):
        shape = [1 if kind == "saved-1" else None, *model.input.shape[1:]]
        called = _calling(model, tf.TensorSpec(shape, tf.float32, name="pixels"))
        module = tf.Module()
        module.model = model  # so that its variables are saved
        tf.saved_model.save(module, str(path), signatures=called)
    else:
        pixels = np.load(sys.argv[5], mmap_mode="r") if kind == "int8" else None
        logits = model.get_layer("logits")
        logits.set_weights([each / float(sys.argv[4]) for each in logits.get_weights()])
        path.write_bytes(_litert(model, kind, pixels))


def _calling(model: Any, pixels: Any) -> Any:
    """A function of TensorFlow, from pixels to probabilities."""
    import tensorflow as tf

    def answers(pixels: Any) -> dict[str, Any]:
        found = model(tf.cast(pixels, tf.float32), training=False)
        if pixels.dtype == tf.uint8:
            found = tf.cast(tf.round(found * 255), tf.uint8)
        return {"probabilities": found}

    return tf.function(answers, input_signature=[pixels])


def _litert(model: Any, kind: str, pixels: Any) -> bytes:
    """A LiteRT file with operations that every runtime has, for one picture at a time."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    dtype = tf.uint8 if kind == "f16-bytes" else tf.float32
    given = tf.TensorSpec([1, *model.input.shape[1:]], dtype, name="pixels")
    # Else the converter leaves the weights out, as TensorFlow does not find them in Keras' model.
    frozen = convert_variables_to_constants_v2(_calling(model, given).get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if kind.startswith("f16"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif kind == "int8":

        def examples() -> Iterator[list[Any]]:
            for each in pixels:
                yield [each[None].astype(np.float32)]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = examples
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return bytes(converter.convert())


if __name__ == "__main__":
    main()
