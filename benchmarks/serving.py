"""The server under load: `efftune serve RUN` on this machine, which is the clients' as well.

    python benchmarks/serving.py RUN PHOTOS [--peers PYTHON] [--minutes 30]
        [--only throughput one crowd overload leak soak hostile stop]

`--peers` names a Python with efftune, litserve and fastapi, which then serve the same Keras model
to the same clients. Each line says what was measured; what must hold is in brackets, and the exit
code is 1 if something does not.
"""

import argparse
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

import efftune
import http_load
from efftune.system import machine
from http_load import Ask, Load

CLIENTS = 32
BAD = 20  # one request in so many
_failed = list[str]()


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only", nargs="*", default=[*SCENARIOS])
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--minutes", type=float, default=30, help="of the soak")
    parser.add_argument("--repeats", type=int, default=3, help="of the throughput")
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    bench = Bench(arguments)
    print(f"{len(bench.paths)} photos of {bench.size / 1e3:.0f} kB on average\n")
    for name in arguments.only:
        SCENARIOS[name](bench)
    print("\n".join(["", *(f"does not hold: {each}" for each in _failed)]))
    sys.exit(bool(_failed))


def holds(what: str, is_true: bool) -> str:
    """A text for a condition, which is kept if it does not hold."""
    if not is_true:
        _failed.append(what)
    return f"[{what}: {'yes' if is_true else 'NO'}]"


class Bench:
    """Photos, what is right about them, and servers."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        found = (path for path in sorted(arguments.photos.rglob("*")) if path.is_file())
        self.paths = [path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        self.contents = [path.read_bytes() for path in self.paths]
        self.size = statistics.mean(map(len, self.contents))
        predictions = efftune.load(arguments.run).predict(self.paths)
        self.right = {str(each.path): (each.label, each.confidence) for each in predictions}
        order = np.random.default_rng(0).permutation(len(self.paths))
        self.asks = [
            Ask.post("/predict", self.contents[i], str(self.paths[i])) for i in order.tolist()
        ]

    def forever(self) -> Iterator[Ask]:
        """Requests without an end."""
        return itertools.cycle(self.asks)

    def wrong(self, load: Load) -> int:
        """How many answers are not those of `predict`, to the last digit."""
        count = 0
        for each in load.of(200):
            values = each.json()
            count += (values["label"], values["confidence"]) != self.right[each.name]
        return count

    @contextmanager
    def server(self, *options: str) -> Iterator["Server"]:
        """A server of its own process."""
        server = Server([sys.executable, "-m", "efftune"], self.arguments.run, options)
        try:
            yield server
        finally:
            server.stop()


class Server:
    """A server, ready."""

    def __init__(self, command: list[str], run: Path, options: tuple[str, ...] = ()):
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "serve", str(run), "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = ("127.0.0.1", int(self._event("listening").rpartition(":")[2]))
        self._event("ready")
        self.ready_seconds = time.perf_counter() - began

    def _event(self, name: str) -> str:
        while line := self.process.stdout.readline():
            told = json.loads(line)
            if told["event"] == name:
                return str(told["value"])
        raise SystemExit(f"the server ended with {self.process.wait()}")

    def get(self, path: str) -> http_load.Answered:
        """Ask once."""
        return http_load.run(self.address, iter([Ask.get(path)]), clients=1).answered[0]

    def counted(self) -> dict[str, float]:
        """What its metrics say."""
        lines = self.get("/metrics").body.decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if not line.startswith("#")
        }

    def stop(self) -> int:
        """End it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def throughput(bench: Bench) -> None:
    """32 clients, beside `predict` over the same files, and others serving the same model."""
    rates = dict[str, list[float]]()
    with bench.server() as server:
        http_load.run(server.address, iter(bench.asks[:64]), clients=CLIENTS)
        for number in range(bench.arguments.repeats):
            rates.setdefault("predict", []).append(_predict_rate(bench))
            load = http_load.run(server.address, iter(bench.asks), clients=CLIENTS)
            rates.setdefault("serve", []).append(load.rate(200))
            if number == 0:
                _show("32 clients", load)
                right = load.statuses == {200: len(bench.asks)} and not bench.wrong(load)
                print(holds("none lost, none wrong", right))
    ratio = statistics.median(rates["serve"]) / statistics.median(rates["predict"])
    print(
        "predict", _spread(rates["predict"]), "serve", _spread(rates["serve"]), "a second;", end=""
    )
    print(f" {ratio:.2f} of it", holds("80 % of predict", ratio >= 0.8))
    if bench.arguments.peers is not None:
        _beside_peers(bench, statistics.median(rates["serve"]))


def _predict_rate(bench: Bench) -> float:
    """Photos a second of `Classifier.predict`, read from their files, network compiled."""
    code = (
        "import efftune, sys, time; c = efftune.load(sys.argv[1]); "
        "p = sys.stdin.read().split('\\n'); c.predict(p[:64]); t = time.perf_counter(); "
        "c.predict(p); print(len(p) / (time.perf_counter() - t))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(bench.arguments.run)],
        input="\n".join(map(str, bench.paths)),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout.split()[-1])


def _beside_peers(bench: Bench, ours: float) -> None:
    best = 0.0
    for kind in ("litserve", "fastapi"):
        asks = [_as_form(each) for each in bench.asks] if kind == "litserve" else bench.asks
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(bench.arguments.peers), str(Path(__file__).with_name(f"serving_{kind}.py"))]
        process = subprocess.Popen(
            [*command, str(bench.arguments.run), str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait_for(("127.0.0.1", port), asks)
            load = http_load.run(("127.0.0.1", port), iter(asks), clients=CLIENTS)
            _show(f"{kind}, 32 clients", load)
            same = sum(
                each.json()["label"] == bench.right[each.name][0] for each in load.of(200)
            ) / max(1, len(load.of(200)))
            print(f"{kind}: {100 * same:.1f} % the same answers")
            best = max(best, load.rate(200))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    print(f"{ours / best:.2f} times the better one", holds("2 times", ours >= 2 * best))


def _as_form(ask: Ask) -> Ask:
    """The same picture as a form, which is what LitServe takes."""
    content = ask.content.partition(b"\r\n\r\n")[2]
    start = b'--cut\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
    body = start + content + b"\r\n--cut--\r\n"
    return Ask.post("/predict", body, ask.name, "multipart/form-data; boundary=cut")


def _wait_for(address: tuple[str, int], asks: list[Ask]) -> None:
    for _ in range(240):
        with suppress(OSError):
            if http_load.run(address, iter(asks[:2]), clients=1).of(200):
                return
        time.sleep(0.5)
    raise SystemExit("a peer does not answer")


def one(bench: Bench) -> None:
    """One client, beside decoding and computing alone."""
    classifier = efftune.load(bench.arguments.run)
    with bench.server() as server:
        http_load.run(server.address, iter(bench.asks[:32]), clients=1)
        alone, served = [], []
        for i, ask in enumerate(bench.asks[:200]):
            began = time.perf_counter()
            classifier.predict_decoded(classifier.decode(Path(ask.name).read_bytes()))
            alone.append(time.perf_counter() - began)
            if i >= 20:
                load = http_load.run(server.address, iter([ask]), clients=1)
                served.append(load.answered[0].seconds)
    alone_ms, served_ms = (1000 * statistics.median(each) for each in (alone[20:], served))
    ratio = served_ms / alone_ms
    print(f"one client: {served_ms:.1f} ms, decode and network alone {alone_ms:.1f} ms: ", end="")
    print(f"{ratio:.2f}", holds("1.2 times", ratio <= 1.2))


def crowd(bench: Bench) -> None:
    """200 clients with 100 requests each, one in 20 of them bad."""
    bad = [
        *(Ask.post("/predict", body, "bad") for body in (b"no picture", b"", b"\xff\xd8\xff" * 9)),
        Ask.post("/predict", b"{}", "bad", "application/json"),
        Ask.post("/predict?top=x", bench.contents[0], "bad"),
        Ask(Ask.get("/nothing").content, "bad"),
    ]

    def asks() -> Iterator[Ask]:
        chosen = random.Random(0)
        good = bench.forever()
        for _ in range(200 * 100):
            yield chosen.choice(bad) if chosen.randrange(BAD) == 0 else next(good)

    with bench.server() as server:
        load = http_load.run(server.address, asks(), clients=200)
        _show("200 clients, 20,000 requests", load)
        lost, wrong = len(load.of(0)), bench.wrong(load)
        others = set(load.statuses) - {200, 503} - set(range(400, 500))
        is_bad = {each.status for each in load.answered if each.name == "bad"} & {200}
        print(holds("0 lost, 0 wrong", not (lost or wrong or is_bad)), end=" ")
        print(holds("only 200, 4xx, 503", not others), end=" ")
        counts = dict[int, int]()
        for key, value in server.counted().items():
            if key.startswith("efftune_requests_total") and "/metrics" not in key:
                code = int(key.split('code="')[1].split('"')[0])
                counts[code] = counts.get(code, 0) + int(value)
        print(holds("counters equal the clients'", counts == load.statuses))


def overload(bench: Bench, minutes: float = 2.0) -> None:
    """Ten times what it can do."""
    with bench.server() as server:
        peak = http_load.run(server.address, iter(bench.asks), clients=CLIENTS).rate(200)
        health = list[float]()
        is_over = threading.Event()
        prober = threading.Thread(target=_probe, args=(server, health, is_over))
        prober.start()
        load = http_load.run(
            server.address,
            bench.forever(),
            clients=256,
            rate=10 * peak,
            until=lambda seconds: seconds > 60 * minutes,
        )
        is_over.set()
        prober.join()
        _show(f"10 times {peak:.0f} a second", load)
        offered = len(load.answered) / load.seconds
        refused = [1000 * each.seconds for each in load.of(503)]
        slow = float(np.percentile(refused, 99)) if refused else 0.0
        probe = float(np.percentile(1000 * np.array(health), 99))
        good = load.rate(200) / peak
        print(
            f"offered {offered:.0f} a second, goodput {good:.2f} of peak, wrong {bench.wrong(load)}"
        )
        print(f"refusals p99 {slow:.0f} ms, live and ready p99 {probe:.0f} ms of {len(health)}")
        print(holds("goodput 80 %", good >= 0.8), holds("refusals in 100 ms", slow <= 100), end=" ")
        print(holds("live and ready in 250 ms", probe <= 250), end=" ")
        time.sleep(10)
        after = http_load.run(server.address, iter(bench.asks[:200]), clients=1)
        print(holds("normal after 10 s", after.statuses == {200: 200}))


def _probe(server: Server, seconds: list[float], is_over: threading.Event) -> None:
    """Ask for health ten times a second."""
    while not is_over.wait(0.1):
        for path in ("/healthz", "/readyz"):
            load = http_load.run(server.address, iter([Ask.get(path)]), clients=1)
            seconds.append(load.answered[0].seconds)
            if load.answered[0].status != 200:
                seconds.append(60.0)


def soak(bench: Bench) -> None:
    """Long at 70 % load: memory and open files."""
    minutes = bench.arguments.minutes
    with bench.server() as server:
        load, slope, files = _soaked(bench, server, minutes, settling=min(300, 20 * minutes))
        _show(f"{minutes:g} min at 70 %", load)
        print(f"memory {slope:+.2f} MB/h", end=" ")
        print(holds("1 MB/h at most", slope <= 1), end=" ")
        print(f"open files {files[0]} to {files[1]}", end=" ")
        print(holds("none wrong", not bench.wrong(load) and load.statuses.keys() == {200}))


def leak(bench: Bench) -> None:
    """The same for two minutes with a leak of 10 kB a request."""
    script = Path(__file__).with_name("serving_leaking.py")
    server = Server([sys.executable, str(script)], bench.arguments.run)
    try:
        load, slope, _ = _soaked(bench, server, 2, settling=30)
    finally:
        server.stop()
    planted = 10_000 * load.rate(200) * 3600 / 1e6
    print(f"10 kB a request: memory {slope:+.0f} MB/h of {planted:.0f} planted", end=" ")
    print(holds("a leak is noticed", slope > max(1, planted / 2)))


def _soaked(
    bench: Bench, server: "Server", minutes: float, settling: float
) -> tuple[Load, float, tuple[int, int]]:
    """The load; MB an hour of memory, after some seconds; fewest and most open files."""
    peak = http_load.run(server.address, iter(bench.asks), clients=CLIENTS).rate(200)
    process = psutil.Process(server.process.pid)
    noted = list[tuple[float, int, int]]()
    is_over = threading.Event()

    def note() -> None:
        began = time.monotonic()
        while not is_over.wait(min(10, 5 * minutes)):
            held = process.memory_full_info().uss
            noted.append((time.monotonic() - began, held, process.num_fds()))

    noter = threading.Thread(target=note)
    noter.start()
    load = http_load.run(
        server.address,
        bench.forever(),
        clients=CLIENTS,
        rate=0.7 * peak,
        until=lambda seconds: seconds > 60 * minutes,
    )
    is_over.set()
    noter.join()
    settled = [each for each in noted if each[0] > settling]
    times, held, files = (np.array(each, float) for each in zip(*settled, strict=True))
    print(f"memory {held[0] / 1e6:.1f} to {held[-1] / 1e6:.1f} MB after {settling:g} s;", end=" ")
    slope = np.polyfit(times / 3600, held / 1e6, 1)[0]
    return load, float(slope), (int(files.min()), int(files.max()))


def stop(bench: Bench) -> None:
    """SIGTERM with 100 requests under way; killed while busy, and started again."""
    server = Server(
        [sys.executable, "-m", "efftune"], bench.arguments.run, ("--max-waiting", "200")
    )
    threading.Timer(0.4, server.process.send_signal, [signal.SIGTERM]).start()
    began = time.perf_counter()
    load = http_load.run(server.address, iter(bench.asks[:100]), clients=100)
    code = server.process.wait(60)
    seconds = time.perf_counter() - began
    print(f"SIGTERM: {load.statuses}, exit {code} after {seconds:.1f} s", end=" ")
    print(holds("100 answered", load.statuses == {200: 100} and code == 0 and seconds < 30))
    took = []
    for _ in range(3):
        server = Server([sys.executable, "-m", "efftune"], bench.arguments.run)
        took.append(server.ready_seconds)
        for ask in bench.asks[:50]:
            with socket.create_connection(server.address) as client:
                client.send(ask.content)
        server.process.kill()
        server.process.wait()
    print("ready after", _spread(took), "s", holds("3 s", statistics.median(took) <= 3))


def hostile(bench: Bench) -> None:
    """500 slow sockets, chunks of 6 bytes, and good clients meanwhile."""
    with bench.server() as server:
        slow = [socket.create_connection(server.address) for _ in range(500)]
        is_over = threading.Event()

        def drip() -> None:
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            for number, each in enumerate(slow):
                more = b"Content-Length: 90000\r\n\r\n" if number % 2 else b"X: "
                _try(each, head + more)
            while not is_over.wait(0.5):
                for each in slow:
                    _try(each, b"a")

        dripping = threading.Thread(target=drip)
        dripping.start()
        chunked = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part)
            for part in (bench.contents[0][i : i + 6] for i in range(0, len(bench.contents[0]), 6))
        )
        head = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunks = itertools.repeat(Ask(head + chunked + b"0\r\n\r\n", str(bench.paths[0])), 20)
        load = http_load.run(
            server.address,
            itertools.chain(chunks, itertools.islice(bench.forever(), 600)),
            clients=4,
        )
        is_over.set()
        dripping.join()
        for each in slow:
            each.close()
        _show("4 good clients beside 500 slow sockets", load)
        p99 = np.percentile([each.seconds for each in load.answered], 99)
        print(holds("alive, good p99 1 s", load.statuses == {200: 620} and p99 <= 1), end=" ")
        print(holds("none wrong", not bench.wrong(load)))


def _try(client: socket.socket, content: bytes) -> None:
    with suppress(OSError):
        client.send(content)


def _show(name: str, load: Load) -> None:
    print(
        f"{name}: {load.rate(200):.1f} good answers a second, p50 p95 p99 {load.ms(200)} ms; "
        f"{load.statuses}",
        flush=True,
    )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


SCENARIOS = {
    "throughput": throughput,
    "one": one,
    "crowd": crowd,
    "overload": overload,
    "hostile": hostile,
    "stop": stop,
    "leak": leak,
    "soak": soak,
}

if __name__ == "__main__":
    main()
