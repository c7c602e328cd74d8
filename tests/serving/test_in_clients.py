"""The server with clients of others, in environments of their own; `make exports` runs them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from .conftest import serving

pytestmark = pytest.mark.exports
PROGRAMS = Path(__file__).parent / "programs"
CASES = 30  # of each operation, and each of schemathesis' phases


def test_triton(client, finished_run, squares, tmp_path, python_with):
    paths, classifier = [], finished_run.classifier
    for name, content in squares.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    np.save(tmp_path / "pixels.npy", np.stack([classifier.decode(each) for each in paths]))
    model = client.ask("/info").json["name"]
    python = python_with("tritonclient", ["tritonclient[http]", "numpy"])
    program = [python, PROGRAMS / "with_tritonclient.py", f"127.0.0.1:{client.port}", model]
    done = subprocess.run(
        [*program, tmp_path / "pixels.npy", *paths], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["live"] and told["ready"] and told["model ready"] and told["version ready"]
    assert told["server"]["name"] == "efftune"
    assert told["model"]["name"] == model
    assert "There is no model 'another'" in told["error"]
    assert len(told["answers"]) == 10
    expected = classifier.predict(paths, top=3)
    for each in told["answers"]:
        assert each["label"] == [one.label for one in expected]
        assert each["unsure"] == [one.unsure for one in expected]
        assert each["unlike"] == [one.unlike for one in expected]
        assert each["confidence"] == [one.confidence for one in expected]
        for row, one in zip(each["probabilities"], expected, strict=True):
            assert dict(enumerate(row)) == {
                index: value for index, (_, value) in zip(one.top_indices, one.top, strict=True)
            }


def test_schemathesis(finished_run, picture, tmp_path, python_with):
    """Requests that fit what the server says of itself, and requests that do not."""
    python = python_with("schemathesis", ["schemathesis>=4"])
    with serving(finished_run.folder) as client:
        address = f"http://127.0.0.1:{client.port}"
        done = subprocess.run(
            [
                *(python.with_name("st"), "run", f"{address}/openapi.json", "--url", address),
                *("--checks", "not_a_server_error", "--max-examples", str(CASES), "--seed", "1"),
                *("--mode", "all", "--phases", "examples,coverage,fuzzing", "--no-color"),
                *("--request-timeout", "30", "--continue-on-failure"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=900,
        )
        counted = client.counted()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert "500" not in counted
        assert sum(counted.values()) > (0 if "No operations" in done.stdout else CASES)
        assert client.send("/predict", picture).json["label"] == "red"
