"""Plain FastAPI that serves the Keras model of a run, a picture at a time, in its threads.

python benchmarks/serving_fastapi.py RUN PORT
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

import efftune

RUN, PORT = sys.argv[1:]
classifier, app = efftune.load(RUN), FastAPI()
model = classifier.model


def answered(content: bytes) -> dict[str, object]:
    """Decode as efftune does, and run the model."""
    pixels = classifier.decode(content)[None].astype(np.float32)
    row = model.predict_on_batch(pixels)[0]
    return {"label": classifier.class_names[row.argmax()], "confidence": float(row.max())}


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    """The class of the picture in the body."""
    return await run_in_threadpool(answered, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, port=int(PORT), log_level="critical")
