"""The program that converts a run's Keras model to LiteRT, in a process with TensorFlow.

python -m efftune.delivery.litert_conversion RUN FILE WEIGHTS
"""

import sys
from pathlib import Path


def main() -> None:
    """Convert, with operations that every LiteRT runtime has, for one picture at a time."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    from efftune.model.engines.saved import load_keras

    run, path, weights = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    model = load_keras(run)
    _, *sides = model.input.shape
    pixels = tf.TensorSpec([1, *sides], tf.float32, name="pixels")

    probabilities = tf.function(lambda x: model(x, training=False), input_signature=[pixels])

    # Else the converter leaves the weights out, as TensorFlow does not find them in Keras' model.
    frozen = convert_variables_to_constants_v2(probabilities.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if weights == "f16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())


if __name__ == "__main__":
    main()
