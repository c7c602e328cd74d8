"""The same photos from a disk and from an S3 server, as files and as shards.

    python benchmarks/remote.py PHOTOS [--delays 0 30] [--repeats 3]

The server runs on this machine; each of its answers waits for so many milliseconds, as those of
object storage do. Measured is `check` from an empty cache of copies, and again.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import efftune
from efftune.system import machine

BUCKET = "photos"


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--delays", type=float, nargs="*", default=[0, 30], help="milliseconds")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    with tempfile.TemporaryDirectory() as place:
        os.environ["EFFTUNE_CACHE"] = f"{place}/cache"
        shards = Path(place, "shards")
        began = time.perf_counter()
        packed = efftune.pack(arguments.photos, shards, on_progress=None)
        seconds = time.perf_counter() - began
        print(f"packed {packed.pictures:,} photos, {len(packed.shards)} shards: {seconds:.1f} s")
        ways = {"folder": str(arguments.photos), "shards": str(shards)}
        for name, source in ways.items():
            show(f"disk, {name}", source, arguments.repeats)
        for delay in arguments.delays:
            with server(delay / 1000):
                import s3fs

                system = s3fs.S3FileSystem()
                if not system.exists(BUCKET):  # servers of one process share what they have
                    system.mkdir(BUCKET)
                    for name, source in ways.items():
                        system.put(source, f"{BUCKET}/{name}", recursive=True)
                for name in ways:
                    show(f"S3, {delay:g} ms, {name}", f"s3://{BUCKET}/{name}", arguments.repeats)
                s3fs.S3FileSystem.clear_instance_cache()


def show(what: str, source: str, repeats: int) -> None:
    """Measure one way."""
    first, again = list[float](), list[float]()
    for _ in range(repeats):
        copies = Path(os.environ["EFFTUNE_CACHE"], "addresses")
        shutil.rmtree(copies, ignore_errors=True)
        for seconds in (first, again):
            began = time.perf_counter()
            efftune.check(source, on_progress=None)
            seconds.append(time.perf_counter() - began)
    print(f"{what}: {_spread(first)} s, again {_spread(again)} s", flush=True)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


@contextmanager
def server(delay: float) -> Iterator[None]:
    """An S3 server with a bucket, each of whose answers waits for so many seconds."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)

    def slow(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            time.sleep(delay)
        return application(environ, start_response)

    running = make_server("127.0.0.1", 0, slow, threaded=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.server_port}",
        "AWS_ACCESS_KEY_ID": "us",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    yield
    running.shutdown()


if __name__ == "__main__":
    main()
