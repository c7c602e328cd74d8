"""The files that applications need beside a classifier's, filled in from templates."""

import json
import math
import re
import unicodedata
from importlib import resources
from pathlib import Path
from string import Template

from efftune.delivery import browser
from efftune.delivery.formats import Material
from efftune.errors import UsageError
from efftune.system import files


def safe_name(material: Material) -> str:
    """The run's name as applications take it: lower-case letters, digits and underscores."""
    plain = unicodedata.normalize("NFKD", material.run_name).encode("ascii", "ignore").decode()
    found = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
    return found or "classifier"


def _filled(template: str, **values: object) -> str:
    text = resources.files("efftune.delivery") / "templates" / template
    return Template(text.read_text(encoding="utf-8")).substitute(values)


_FRAMING = {
    "crop": """\
    left, top, side = *((each - min(image.size)) // 2 for each in image.size), min(image.size)
    image = image.crop((left, top, left + side, top + side))""",
    "stretch": "    # The whole picture is stretched to a square.",
    "pad": """\
    size = tuple(max(1, round(side * SIDE / max(image.size))) for side in image.size)
    left, top = ((SIDE - side) // 2 for side in size)""",
}
_SQUARE = {
    "crop": "image",
    "stretch": "image",
    "pad": "ImageOps.expand(image, (left, top, SIDE - size[0] - left, SIDE - size[1] - top), "
    "(127, 127, 127))",
}
_ONNX = """\
    import onnxruntime
    session = onnxruntime.InferenceSession(HERE / "model.onnx")
    def classify(pixels):
        return session.run(None, {"pixels": np.float32(pixels)[None]})[0][0]"""
_LITERT = """\
    from ai_edge_litert.interpreter import Interpreter
    classifier = Interpreter(str(HERE / "model.tflite"))
    classifier.allocate_tensors()
    def classify(pixels):
        classifier.set_tensor(classifier.get_input_details()[0]["index"], pixels[None])
        classifier.invoke()
        found = classifier.get_output_details()[0]
        return classifier.get_tensor(found["index"])[0] * (found["quantization"][0] or 1 / 255)"""
_TRITON = """\
    from tritonclient.http import InferenceServerClient, InferInput
    client = InferenceServerClient("localhost:8000")
    given = InferInput("pixels", (1, SIDE, SIDE, 3), "FP32")
    def classify(pixels):
        given.set_data_from_numpy(np.float32(pixels)[None])
        return client.infer("$name", [given]).as_numpy("probabilities")[0]"""


def _write_script(material: Material, path: Path, *, loading: str, packages: str) -> None:
    """Write a program of a few lines that classifies photos."""
    known = material.metadata
    script = _filled(
        "predict.py.txt",
        script=path.name,
        packages=packages,
        side=known["image_size"],
        unsure_below=known.get("unsure_below", "0"),
        framing=_FRAMING[known["fit"]],
        square=_SQUARE[known["fit"]],
        loading=Template(loading).safe_substitute(name=safe_name(material)),
    )
    files.write(path, script)


def write_python(material: Material, folder: Path) -> None:
    """`predict.py`."""
    packages = "onnxruntime numpy pillow"
    _write_script(material, folder / "predict.py", loading=_ONNX, packages=packages)


def write_raspberry_pi(material: Material, folder: Path) -> None:
    """`predict.py`."""
    packages = "ai-edge-litert numpy pillow"
    _write_script(material, folder / "predict.py", loading=_LITERT, packages=packages)


def write_browser(material: Material, folder: Path) -> None:
    """The page, its scripts and the runtime that they use."""
    known, runtime = material.metadata, material.browser_runtime
    if runtime is None:
        raise UsageError("The page needs the archive of ONNX Runtime Web.")
    about = f"{known['model']}, by {known['producer']}"
    settings = browser.Settings.of(material.classifier, material.run_name, about)
    browser.write(folder, settings, runtime)


def write_mediapipe(material: Material, folder: Path) -> None:
    """The snippets for Android and for web pages; they cut the square if the run crops."""
    cuts = material.metadata["fit"] == "crop"
    for name, helper, framed in (
        ("Classifier.kt", _KOTLIN_SQUARE, "square(bitmap)" if cuts else "bitmap"),
        ("classifier.js", _JAVASCRIPT_SQUARE, "square(image)" if cuts else "image"),
    ):
        files.write(folder / name, _filled(name, framed=framed, helper=helper if cuts else ""))


_KOTLIN_SQUARE = """
    /** The central square, as the classifier was trained on. */
    private fun square(bitmap: Bitmap): Bitmap {
        val side = minOf(bitmap.width, bitmap.height)
        val left = (bitmap.width - side) / 2
        return Bitmap.createBitmap(bitmap, left, (bitmap.height - side) / 2, side, side)
    }
"""
_JAVASCRIPT_SQUARE = """
/** The central square, as the classifier was trained on. */
function square(image) {
  const width = image.naturalWidth ?? image.videoWidth ?? image.width;
  const height = image.naturalHeight ?? image.videoHeight ?? image.height;
  const side = Math.min(width, height);
  const canvas = new OffscreenCanvas(side, side);
  canvas.getContext("2d").drawImage(image, (side - width) / 2, (side - height) / 2);
  return canvas;
}
"""


def write_frigate(material: Material, folder: Path) -> None:
    """`labelmap.txt`, and the lines for its configuration.

    Frigate makes names of files of the classes, so they are written without slashes.
    """
    labels = list[str]()
    for label in material.labels:
        plain = label.replace("/", "_")
        labels.append(plain if plain not in labels else f"{plain}_{len(labels)}")
    files.write(folder / "labelmap.txt", "".join(f"{label}\n" for label in labels))
    threshold = min(1.0, round(float(material.metadata.get("unsure_below", 0.8)), 2))
    files.write(
        folder / "config.yml", _filled("frigate.yml", name=safe_name(material), threshold=threshold)
    )


def write_photoprism(material: Material, folder: Path) -> None:
    """`labels.txt`, and the lines for its `vision.yml`."""
    name, known = safe_name(material), material.metadata
    resize = {"crop": "center-crop", "stretch": "stretch", "pad": "pad"}[known["fit"]]
    threshold = min(100, math.ceil(100 * float(known.get("unsure_below", 0.2))))
    settings = {"name": name, "side": known["image_size"], "resize": resize}
    settings |= {"classes": str(len(material.labels)), "percent": str(threshold)}
    files.write(folder / "vision.yml", _filled("vision.yml", **settings))
    files.write(folder / name / "labels.txt", material.labels_text)


def write_model_server(material: Material, folder: Path) -> None:
    """`config.json`."""
    name, side = safe_name(material), int(material.metadata["image_size"])
    settings = {
        "name": name,
        "base_path": f"/models/{name}",
        "shape": f"(1,{side},{side},3)",
        "layout": "NHWC",
        "color_format": "BGR:RGB",  # it decodes files to the first
    }
    text = json.dumps({"model_config_list": [{"config": settings}]}, indent=2)
    files.write(folder / "config.json", text + "\n")


def write_triton(material: Material, folder: Path) -> None:
    """`config.pbtxt`, `labels.txt`, and a client, `predict.py`."""
    name = safe_name(material)
    settings = {"name": name, "side": material.metadata["image_size"]}
    settings |= {"classes": str(len(material.labels))}
    files.write(folder / name / "config.pbtxt", _filled("config.pbtxt", **settings))
    packages = "tritonclient[http] numpy pillow"
    _write_script(material, folder / name / "predict.py", loading=_TRITON, packages=packages)
    files.write(folder / name / "labels.txt", material.labels_text)
