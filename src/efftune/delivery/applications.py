"""How applications make a classifier's input of a picture, played again step by step.

Each function makes uint8 (size, size, 3) pixels, red, green and blue, from the content of a file,
and raises `BadImage` if the application cannot read that. The sources were read as of 2026.
"""

import io

import numpy as np
from PIL import Image, ImageOps

from efftune.data import images
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.model.classifier import Classifier

_NO_IMAGE = "the application cannot read it"
_IN_BROWSERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
_PHOTOPRISM_QUALITY = 83  # of its thumbnails, which are JPEG files


def frigate(content: bytes, size: int) -> Pixels:
    """Frigate: OpenCV stretches the part of a frame, without averaging.

    Source: `frigate/data_processing/real_time/custom_classification.py`,
    https://github.com/blakeblackshear/frigate.
    """
    import cv2

    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise BadImage(_NO_IMAGE)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.resize(rgb, (size, size)), np.uint8)


def mediapipe(content: bytes, size: int) -> Pixels:
    """MediaPipe's `ImageClassifier` on a CPU: OpenCV stretches, without averaging.

    The picture is taken upright, as browsers give it; where a program does not turn it, MediaPipe
    does not either.

    Source: `mediapipe/calculators/tensor/image_to_tensor_converter_opencv.cc`,
    https://github.com/google-ai-edge/mediapipe.
    """
    import cv2

    rgb = np.asarray(_upright(content))
    height, width = rgb.shape[:2]
    corners = np.array([[0, height], [0, 0], [width, 0], [width, height]], np.float32)
    places = np.array([[0, size], [0, 0], [size, 0], [size, size]], np.float32)
    projection = cv2.getPerspectiveTransform(corners, places)
    warped = cv2.warpPerspective(
        rgb, projection, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)


def model_server(content: bytes, size: int) -> Pixels:
    """OpenVINO Model Server, given the bytes of a file: OpenCV stretches, without averaging.

    The orientation in EXIF is ignored; pictures in grey or with transparency are refused.

    Source: `src/tensor_conversion_common.cpp`, https://github.com/openvinotoolkit/model_server.
    """
    import cv2

    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if bgr is None or bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != np.uint8:
        raise BadImage(_NO_IMAGE)
    return np.asarray(cv2.resize(bgr, (size, size))[..., ::-1], np.uint8)


def photoprism(content: bytes, size: int) -> Pixels:
    """PhotoPrism: its thumbnail is the central square, as a JPEG file.

    Source: `internal/ai/vision`, `internal/ai/onnx`, https://github.com/photoprism/photoprism.
    """
    square = ImageOps.fit(_upright(content), (size, size), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    square.save(stream, "JPEG", quality=_PHOTOPRISM_QUALITY)
    return np.asarray(Image.open(stream).convert("RGB"), np.uint8)


def browser(content: bytes, classifier: Classifier) -> Pixels:
    """The page of `browser`: as efftune, without decoding JPEG files at a part of their size."""
    try:
        with Image.open(io.BytesIO(content), formats=_IN_BROWSERS) as image:
            size, fit = classifier.image_size, classifier.fit
            return images.of_image(image, size, fit, classifier.depth)
    except (OSError, ValueError):
        raise BadImage(_NO_IMAGE) from None


def _upright(content: bytes) -> Image.Image:
    """A picture in RGB, turned as EXIF says."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # noqa: BLE001  (the decoders raise many)
        raise BadImage(_NO_IMAGE) from None
