import subprocess
import sys

import pytest

import efftune


def test_every_public_name_resolves():
    for name in efftune.__all__:
        assert getattr(efftune, name).__name__ == name


def test_public_names_are_sorted_and_complete():
    assert efftune.__all__ == sorted(efftune.__all__)
    assert set(efftune.__all__) == set(efftune._HOMES)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no 'trian'"):
        efftune.trian  # noqa: B018


def test_import_loads_no_framework_sets_nothing_prints_nothing():
    script = (
        "import os, sys; before = dict(os.environ); import efftune; "
        "heavy = {'keras', 'tensorflow', 'openvino', 'numpy', 'sklearn', 'cv2', 'PIL', 'rich'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert dict(os.environ) == before"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
