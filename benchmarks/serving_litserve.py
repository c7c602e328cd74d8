"""LitServe that serves the Keras model of a run, in batches of up to 8 with a wait of 2 ms.

python benchmarks/serving_litserve.py RUN PORT
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import litserve
import numpy as np
from fastapi import Request

import efftune


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Decodes as efftune does, and runs the model."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model."""
        self.classifier = efftune.load(sys.argv[1])
        self.model = self.classifier.model

    def decode_request(self, request: Request) -> np.ndarray:
        """The pixels of the picture in a form: LitServe takes that, or JSON."""
        return self.classifier.decode(request["picture"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Several pictures as one input."""
        return np.stack(inputs).astype(np.float32)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Their probabilities."""
        return np.asarray(self.model.predict_on_batch(pixels))

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Those of each."""
        return list(output)

    def encode_response(self, row: np.ndarray) -> dict[str, object]:
        """The class."""
        names = self.classifier.class_names
        return {"label": names[row.argmax()], "confidence": float(row.max())}


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.002, api_path="/predict")
    litserve.LitServer(api, accelerator="cpu").run(
        generate_client_file=False, port=int(sys.argv[2]), log_level="critical"
    )
