import ctypes
import os
import subprocess
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


GIB = 2**30
PLENTY = 2**62  # as version 1 writes that there is no limit


def system(root, own, **texts):
    """The files in which Linux tells of the control groups of a process."""
    named = {"proc/self/cgroup": own} | {
        f"sys/fs/cgroup/{name}": text for name, text in texts.items()
    }
    for name, text in named.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n", encoding="utf-8")
    return root


def groups(version, folder, *, limit, used, cached=0, quota="max", period=100_000):
    """What is in the folder of a control group, of version 1 or 2."""
    if version == 2:
        prefix = f"{folder}/" * bool(folder)
        return {
            f"{prefix}memory.max": limit,
            f"{prefix}memory.current": used,
            f"{prefix}memory.stat": f"anon 5\ninactive_file {cached}\nactive_file {cached}",
            f"{prefix}cpu.max": f"{quota} {period}",
        }
    prefix = f"{folder}/" * bool(folder)
    return {
        f"memory/{prefix}memory.limit_in_bytes": PLENTY if limit == "max" else limit,
        f"memory/{prefix}memory.usage_in_bytes": used,
        f"memory/{prefix}memory.stat": (
            f"inactive_file 3\ntotal_inactive_file {cached}\ntotal_active_file {cached}"
        ),
        f"cpu/{prefix}cpu.cfs_quota_us": -1 if quota == "max" else quota,
        f"cpu/{prefix}cpu.cfs_period_us": period,
    }


OWN = {1: "5:cpu,cpuacct:/jobs/mine\n4:memory:/jobs/mine\n1:name=systemd:/", 2: "0::/jobs/mine"}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("folder", ["jobs/mine", "jobs", ""])
def test_container_has_its_share_of_the_machine(tmp_path, version, folder):
    told = groups(version, folder, limit=GIB, used=GIB // 2, cached=GIB // 8, quota=50_000)
    root = system(tmp_path, OWN[version], **told)
    assert machine.memory_bytes(root) == GIB
    assert machine.free_memory(root) == min(3 * GIB // 4, psutil.virtual_memory().available)
    assert machine.usable_processors(root) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_smallest_limit_of_nested_groups_counts(tmp_path, version):
    inner = groups(version, "jobs/mine", limit="max", used=5)
    outer = groups(version, "jobs", limit=3000, used=2990, quota=100_000)
    root = system(tmp_path, OWN[version], **inner, **outer)
    assert machine.memory_bytes(root) == 3000
    assert machine.free_memory(root) == 10
    assert machine.usable_processors(root) == 1


@pytest.mark.skipif(machine.usable_processors() < 2, reason="needs two processors")
def test_part_of_a_processor_counts_as_one(tmp_path):
    told = groups(2, "", limit="max", used=5, quota=110_000)
    assert machine.usable_processors(system(tmp_path, "0::/", **told)) == 2


@pytest.mark.parametrize(
    "own", ["", "0::/", "0::/../../other", "odd\n1:cpu", "4:memory:/gone\n3:cpu:/gone"]
)
def test_without_limits_it_is_that_of_the_machine(tmp_path, own):
    root = system(tmp_path, own)
    assert machine.memory_bytes(root) == psutil.virtual_memory().total
    assert 0 < machine.free_memory(root) <= psutil.virtual_memory().total
    expected = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert machine.usable_processors(root) == expected


def test_container_that_is_over_its_limit_has_nothing_free(tmp_path):
    root = system(tmp_path, "0::/", **groups(2, "", limit=1000, used=2000))
    assert machine.free_memory(root) == 0


def test_quota_is_no_reason_to_share_the_first_processors():
    """A process that may run on all of them keeps to none."""
    code = (
        "from efftune.system import machine\n"
        "machine._quota = lambda _root: 1\n"
        "print(machine.usable_processors(), machine._processors(), machine.uses_all_processors())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    usable, processors, uses_all = done.stdout.split()
    assert usable == "1"
    assert uses_all == str(processors == "1")
