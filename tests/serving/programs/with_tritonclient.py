"""Ask a server with Triton's own client: ADDRESS MODEL PIXELS.npy PICTURE… ; prints what it says.

The pixels are those of the pictures, uint8 (pictures, size, size, 3).
"""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

OUTPUTS = ("probabilities", "label", "confidence", "unsure", "unlike")


def tensor(name, kind, values, binary):
    found = triton.InferInput(name, list(values.shape), kind)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def main(address, model, pixels, *pictures):
    client = triton.InferenceServerClient(address)
    files = np.array([Path(each).read_bytes() for each in pictures], object)
    array = np.load(pixels)
    inputs = {"BYTES": ("image", files), "UINT8": ("pixels", array)}
    inputs["FP32"] = ("pixels", array.astype(np.float32))
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready(model),
        "version ready": client.is_model_ready(model, "1"),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model),
        "answers": [],
    }
    for kind, (name, values) in inputs.items():
        for sent in (True, False):
            if kind == "BYTES" and not sent:
                continue  # it writes bytes into JSON as text, which files are not
            for received in (True, False):
                answer = client.infer(
                    model,
                    [tensor(name, kind, values, sent)],
                    request_id="a request",
                    outputs=[
                        triton.InferRequestedOutput(each, binary_data=received) for each in OUTPUTS
                    ],
                )
                assert answer.get_response()["id"] == "a request"
                values_of = {each: answer.as_numpy(each) for each in OUTPUTS}
                labels = [
                    each.decode() if isinstance(each, bytes) else str(each)
                    for each in values_of.pop("label")
                ]
                rest = {each: value.tolist() for each, value in values_of.items()}
                found["answers"].append(
                    {"kind": kind, "sent": sent, "received": received, "label": labels, **rest}
                )
    try:
        client.infer("another", [tensor("image", "BYTES", files, True)])
    except triton.InferenceServerException as error:
        found["error"] = str(error)
    print(json.dumps(found))


main(*sys.argv[1:])
