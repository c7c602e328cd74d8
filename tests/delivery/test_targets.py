import ast
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

import efftune
from efftune.data import images
from efftune.delivery import applications, target_files, targets
from efftune.delivery.formats import Material
from efftune.delivery.targets import TARGETS
from efftune.errors import BadImage
from efftune.model.classifier import Classifier


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy that may be written to."""
    return efftune.Run.load(
        shutil.copytree(finished_run.folder, tmp_path_factory.mktemp("targets") / "My run! 2")
    )


def photo(path, size=(61, 40), **options):
    """A picture without straight lines, so that ways of resizing differ."""
    random = np.random.default_rng(7)
    small = Image.fromarray(random.integers(0, 255, (5, 7, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "python",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("photoprism", "triton", "ovms")),
    ],
)
def test_target_is_proved_with_the_pixels_that_the_application_makes(run, tmp_path, name):
    (made,) = run.export(name, tmp_path)
    stored = json.loads((tmp_path / name / "receipt.json").read_text())
    assert made.name == name
    assert stored["application"] == TARGETS[name].does
    assert [score["split"] for score in stored["application_pixels"]] == ["val", "test"]
    assert stored["application_left_out"] == []
    for same, its in zip(stored["same_pixels"], stored["application_pixels"], strict=True):
        assert same["agreement"] == 1
        assert its["pictures"] == same["pictures"]
        assert its["agreement"] >= 0.9
        assert its["largest_gap"] > same["largest_gap"]


@pytest.mark.ci
def test_script_classifies_without_efftune(run, tmp_path):
    run.export("python", tmp_path)
    folder = shutil.move(tmp_path / "python", tmp_path / "elsewhere")
    script = folder / "predict.py"
    assert len(script.read_text().splitlines()) <= 40
    imported = {
        each.name.split(".")[0]
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Import)
        for each in node.names
    }
    # And Pillow, by `from`.
    assert imported == {"contextlib", "io", "pathlib", "sys", "numpy", "onnxruntime"}
    paths = [photo(tmp_path / "one.jpg"), photo(tmp_path / "two.png", (30, 90))]
    paths.append(photo(tmp_path / "profile.jpg", icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 200))
    no_photo = tmp_path / "text.jpg"
    no_photo.write_text("no picture")
    too_large = tmp_path / "too-large.png"
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    too_large.write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I4s", 99, b"IDAT"))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(too_large)
    program = "import sys; sys.modules['efftune'] = None; sys.argv = sys.argv[1:]; import runpy; "
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{program} runpy.run_path(sys.argv[0], run_name='__main__')"),
            *(script, no_photo, too_large, *paths),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"{no_photo} cannot be read" in done.stderr
    assert f"{too_large} cannot be read" in done.stderr
    expected = run.classifier.predict(paths)
    for line, prediction in zip(done.stdout.splitlines(), expected, strict=True):
        assert line.split()[1] == prediction.label
        assert float(line.split()[2]) == pytest.approx(prediction.confidence, abs=0.02)
    told = [
        subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
        for words in ([], paths)
    ]
    assert [each.returncode for each in told] == [2, 0]
    assert "predict.py PHOTO" in told[0].stderr


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Größe 1", "groe_1"),
        ("2024-05-01", "2024_05_01"),
        ("数据", "classifier"),
        ("a/B.c", "b_c"),
    ],
)
def test_names_are_those_that_applications_take(tmp_path, folder, name):
    classifier = Classifier(tmp_path / folder, ["a", "b"], 32, "crop")
    material = Material(classifier, {}, None, tmp_path, None, None, 0)
    assert target_files.safe_name(material) == name


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((61, 40), {}),
        ((300, 90), {}),
        ((33, 200), {}),
        ((20, 24), {}),
        (
            (120, 80),
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
    ],
)
def test_script_makes_the_pixels_of_training(tmp_path, fit, size, options):
    known = {"fit": fit, "image_size": "32", "run": "a", "classes": "[]"}
    classifier = Classifier(tmp_path, ["a", "b"], 32, fit)
    material = Material(classifier, known, None, tmp_path, None, None, 0)
    target_files.write_python(material, tmp_path)
    prepare = targets._script(tmp_path / "predict.py")
    path = photo(tmp_path / "a.png", size, **options)
    made = prepare(path.read_bytes())
    expected = images.decode(path.read_bytes(), 32, fit)
    assert made.shape == expected.shape == (32, 32, 3)
    assert np.abs(made.astype(int) - expected).mean() < 0.6
    assert np.abs(made.astype(int) - expected).max() <= 6


@pytest.mark.parametrize("name", ["a.png", "a.tif", "grey.png", "alpha.png", "packed.tif"])
def test_script_refuses_more_than_8_bits(tmp_path, name):
    known = {"fit": "crop", "image_size": "32", "run": "a", "classes": "[]"}
    classifier = Classifier(tmp_path, ["a", "b"], 32, "crop")
    target_files.write_python(Material(classifier, known, None, tmp_path, None, None, 0), tmp_path)
    prepare = targets._script(tmp_path / "predict.py")
    shape = {"grey.png": (40, 40), "alpha.png": (40, 40, 4)}.get(name, (40, 40, 3))
    packing = [cv2.IMWRITE_TIFF_COMPRESSION, 5 if name == "packed.tif" else 1]
    for dtype in (np.uint8, np.uint16):
        pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
        cv2.imwrite(str(tmp_path / name), pixels, packing if name.endswith("tif") else [])
        content = (tmp_path / name).read_bytes()
        if dtype == np.uint8:
            assert prepare(content).shape == (32, 32, 3)
            continue
        with pytest.raises(BadImage):
            prepare(content)


def test_applications_see_what_their_sources_say(tmp_path):
    wide = photo(tmp_path / "wide.jpg", (96, 32), quality=95).read_bytes()
    seen = {
        name: getattr(applications, name)(wide, 32)
        for name in ("frigate", "mediapipe", "model_server", "photoprism")
    }
    stretched, cropped = images.decode(wide, 32, "stretch"), images.decode(wide, 32, "crop")
    for name in ("frigate", "mediapipe", "model_server"):
        assert seen[name].shape == (32, 32, 3)
        near = np.abs(seen[name].astype(int) - stretched).mean()
        assert near < 0.3 * np.abs(seen[name].astype(int) - cropped).mean(), name
        assert near < 0.3 * np.abs(seen[name][..., ::-1].astype(int) - stretched).mean(), name
    assert np.abs(seen["photoprism"].astype(int) - cropped).mean() < 4


def test_frigate_can_name_files_by_the_classes(tmp_path):
    known = {"classes": json.dumps(["a/b", "a_b", "c"]), "image_size": "224"}
    classifier = Classifier(tmp_path, ["a/b", "a_b", "c"], 224, "stretch")
    target_files.write_frigate(Material(classifier, known, None, tmp_path, None, None, 0), tmp_path)
    assert (tmp_path / "labelmap.txt").read_text().splitlines() == ["a_b", "a_b_1", "c"]


def test_applications_refuse_what_they_cannot_read(tmp_path):
    grey = tmp_path / "grey.png"
    Image.new("L", (40, 40)).save(grey)
    with pytest.raises(BadImage):
        applications.model_server(grey.read_bytes(), 32)
    for name in ("frigate", "mediapipe", "model_server", "photoprism"):
        with pytest.raises(BadImage):
            getattr(applications, name)(b"no picture", 32)


def test_model_server_gets_a_repository(run, tmp_path):
    (made,) = run.export("ovms", tmp_path)
    assert made.path == tmp_path / "ovms" / "my_run_2" / "1" / "model.xml"
    settings = json.loads((tmp_path / "ovms" / "config.json").read_text())
    (entry,) = settings["model_config_list"]
    assert entry["config"]["name"] == "my_run_2"
    assert entry["config"]["color_format"] == "BGR:RGB"
    assert entry["config"]["shape"] == "(1,32,32,3)"


def test_triton_gets_a_repository(run, tmp_path):
    (made,) = run.export("triton", tmp_path)
    folder = tmp_path / "triton" / "my_run_2"
    assert made.path == folder / "1" / "model.onnx"
    text = (folder / "config.pbtxt").read_text()
    assert 'name: "my_run_2"' in text
    assert "dims: [ 32, 32, 3 ]" in text
    assert f"dims: [ {len(run.classifier.class_names)} ]" in text
    assert (folder / "labels.txt").read_text().split() == list(run.classifier.class_names)
    assert 'client.infer("my_run_2"' in (folder / "predict.py").read_text()
    assert len((folder / "predict.py").read_text().splitlines()) <= 40


def test_photoprism_is_told_that_pixels_are_not_normalised(run, tmp_path):
    (made,) = run.export("photoprism", tmp_path)
    assert made.path == tmp_path / "photoprism" / "my_run_2" / "my_run_2.onnx"
    text = (tmp_path / "photoprism" / "vision.yml").read_text()
    for line in ("Mean: [0, 0, 0]", "StdDev: [1, 1, 1]", "Layout: NHWC", "Logits: false"):
        assert line in text
    assert "Mode: center-crop" in text


def test_frigate_takes_one_size_only(run, tmp_path):
    with pytest.raises(efftune.UsageError, match=r"takes 224 pixels.*takes 32.*--for frigate"):
        run.export("frigate", tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_target_names_the_closest():
    with pytest.raises(efftune.UsageError, match="Did you mean 'frigate'"):
        targets.find("frigat")


@pytest.mark.long
def test_stretch_for_crop_is_seen_in_the_receipt(tmp_path):
    """The fault that other exporters leave to production: what is at the sides counts."""
    random = np.random.default_rng(0)
    for number in range(48):
        pixels = random.integers(0, 60, (40, 120, 3), np.uint8)
        label = ("dark", "light")[number % 2]
        pixels[:, 40:80] += np.uint8(60 * (label == "light"))
        pixels[:, :40] = pixels[:, 80:] = 255 * (label == "dark")
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    run = efftune.train(
        tmp_path / "photos",
        recipe="quick",
        run=tmp_path / "run",
        image_size=32,
        test=0.25,
        on_progress=None,
    )
    (made,) = run.export("ovms", tmp_path / "out")
    same, its = made.receipt.same_pixels[-1], made.receipt.application_pixels[-1]
    assert same.largest_gap < 1e-4
    assert same.accuracy == same.accuracy_before == 1
    assert its.accuracy <= 0.6


@pytest.mark.long
def test_mediapipe_gets_snippets_that_cut_the_square(run, tmp_path):
    (made,) = run.export("android", tmp_path)
    assert made.path == tmp_path / "mediapipe" / "model.tflite"
    kotlin = (made.path.parent / "Classifier.kt").read_text()
    assert "BitmapImageBuilder(square(bitmap))" in kotlin
    assert kotlin.count("{") == kotlin.count("}")
    script = (made.path.parent / "classifier.js").read_text()
    assert "classifier.classify(square(image))" in script
    assert not re.search(r"\$\w", kotlin + script)


@pytest.mark.long
def test_raspberry_pi_gets_bytes(run, tmp_path):
    (made,) = run.export("raspberry-pi", tmp_path)
    assert made.receipt.format == "litert-int8"
    script = made.path.parent / "predict.py"
    assert len(script.read_text().splitlines()) <= 40
    path = photo(tmp_path / "one.jpg")
    done = subprocess.run(
        [sys.executable, script, path], capture_output=True, text=True, check=True
    )
    name, label, score, *_ = done.stdout.split()
    expected = efftune.load(made.path).predict([path])[0]
    assert name == str(path)
    assert label == expected.label == run.classifier.predict([path])[0].label
    assert float(score) == pytest.approx(expected.confidence, abs=0.03)
