import ctypes
import sys

import psutil
import pytest

from efftune.system import machine


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="the C library gives back memory as it likes",
)
def test_freed_memory_is_given_back():
    process = psutil.Process()
    blocks = [bytearray(2_000) for _ in range(50_000)]
    last = bytearray(2_000)  # what is freed before it in memory is otherwise kept
    blocks.clear()
    before = process.memory_info().rss
    machine.give_back_memory()
    assert process.memory_info().rss < before - 50_000_000
    assert last
