"""Exported files in the runtimes that they are for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.model.engines import openvino_check
from efftune.system.machine import usable_processors

Pixels = NDArray[np.float32]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Loaded:
    """A file, ready to answer.

    Attributes:
        runtime: what answers, with its version.
        answer: from float32 pixels, 0 to 255, (batch, size, size, 3), to float32 probabilities
            (batch, classes).
        takes_any: whether the batch may be of any size, rather than 1.
        step: the least difference between two probabilities, if they are stored in bytes; else 0.
    """

    runtime: str
    answer: Callable[[Pixels], Probabilities]
    takes_any: bool = True
    step: float = 0.0


def onnx(path: Path) -> Loaded:
    """An ONNX file in ONNX Runtime, on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_processors()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (pixels,), (probabilities,) = session.get_inputs(), session.get_outputs()

    def answer(batch: Pixels) -> Probabilities:
        (found,) = session.run([probabilities.name], {pixels.name: batch})
        return np.asarray(found, np.float32)

    takes_any = not isinstance(pixels.shape[0], int)
    return Loaded(f"ONNX Runtime {version('onnxruntime')}", answer, takes_any)


def openvino(path: Path) -> Loaded:
    """An OpenVINO model in OpenVINO, on the CPU, in float32."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": usable_processors()}
    read = core.read_model(path)
    openvino_check.require_small(read)  # it may come from others
    model = core.compile_model(read, "CPU", settings)

    def answer(batch: Pixels) -> Probabilities:
        return np.array(model(batch)[model.output("probabilities")], np.float32)

    takes_any = model.input(0).get_partial_shape()[0].is_dynamic
    return Loaded(f"OpenVINO {version('openvino')}", answer, takes_any)


def litert(path: Path) -> Loaded:
    """A LiteRT file in LiteRT, on the CPU. It may take bytes and give them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=usable_processors())
    interpreter.allocate_tensors()
    (pixels,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = probabilities["quantization"]
    is_bytes = probabilities["dtype"] == np.uint8
    step = (scale or 1 / 255) if is_bytes else 0.0

    def answer(batch: Pixels) -> Probabilities:
        interpreter.set_tensor(pixels["index"], batch.astype(pixels["dtype"]))
        interpreter.invoke()
        found = np.array(interpreter.get_tensor(probabilities["index"]), np.float32)
        return (found - zero) * np.float32(step) if is_bytes else found

    return Loaded(f"LiteRT {version('ai-edge-litert')}", answer, takes_any=False, step=step)


def saved_model(path: Path) -> Loaded:
    """A SavedModel in TensorFlow, on the CPU."""
    import tensorflow as tf

    with tf.device("CPU"):
        loaded = tf.saved_model.load(str(path))
    classify = loaded.signatures["serving_default"]

    def answer(batch: Pixels) -> Probabilities:
        with tf.device("CPU"):
            found = classify(pixels=tf.constant(batch))["probabilities"]
        return np.array(found, np.float32)

    takes_any = classify.structured_input_signature[1]["pixels"].shape[0] is None
    return Loaded(f"TensorFlow {tf.__version__}", answer, takes_any)
