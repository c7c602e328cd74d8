"""What others use to serve a Keras model: LitServe, and FastAPI as its tutorials have it.

    python benchmarks/serving_peers.py litserve|fastapi RUN PORT

Both decode as efftune does and run the Keras model of RUN on the processor: LitServe in batches of
up to 8 with a wait of 2 ms, FastAPI one picture at a time in its threads.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np

import efftune


def main() -> None:
    """Serve until killed."""
    kind, run, port = sys.argv[1:]
    {"litserve": litserve, "fastapi": fastapi}[kind](run, int(port))


def answer(names: tuple[str, ...], row: np.ndarray) -> dict[str, object]:
    """The most probable class."""
    best = int(row.argmax())
    return {"label": names[best], "confidence": float(row[best])}


def fastapi(run: str, port: int) -> None:
    """Plain FastAPI."""
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    classifier, app = efftune.load(run), FastAPI()
    model = classifier.model

    def predict(content: bytes) -> dict[str, object]:
        pixels = classifier.decode(content)[None].astype(np.float32)
        return answer(classifier.class_names, np.asarray(model(pixels, training=False))[0])

    @app.post("/predict")
    async def route(request: Request) -> dict[str, object]:
        return await run_in_threadpool(predict, await request.body())

    uvicorn.run(app, port=port, log_level="critical")


def litserve(run: str, port: int) -> None:
    """LitServe, with batches."""
    import litserve as ls
    from fastapi import Request

    class Api(ls.LitAPI):  # type: ignore[misc]
        def setup(self, device: str) -> None:  # noqa: ARG002
            self.classifier = efftune.load(run)
            self.model = self.classifier.model

        async def decode_request(self, request: Request) -> np.ndarray:
            return self.classifier.decode(await request.body())

        def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
            return np.stack(inputs).astype(np.float32)

        async def predict(self, pixels: np.ndarray) -> np.ndarray:
            return np.asarray(self.model(pixels, training=False))

        def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
            return list(output)

        async def encode_response(self, row: np.ndarray) -> dict[str, object]:
            return answer(self.classifier.class_names, row)

    api = Api(max_batch_size=8, batch_timeout=0.002)
    ls.LitServer(api, accelerator="cpu").run(port=port, log_level="critical")


if __name__ == "__main__":
    main()
