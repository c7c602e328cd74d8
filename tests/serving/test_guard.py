"""Who may use the server, and what it says to others."""

import hmac
import logging
import signal
import socket

import pytest

from efftune.errors import UsageError
from efftune.serving import guard
from efftune.serving.answering import Answering
from efftune.serving.settings import ServerSettings

from .client import PICTURE, eventually, head, read
from .conftest import serving

TOKEN = "a-secret-of-24-characters"
ORIGIN = "https://photos.example"
REFUSED_HOSTS = [
    *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example"),
    *("127.0.0.1@evil.example", "evil.example@127.0.0.1", "127.0.0.1:{port}:80", "10.0.0.1"),
    *("192.168.1.1:{port}", "0.0.0.0", "127.1", "2130706433", "0x7f.1", "[::]", "[fe80::1]"),
    *("", ":{port}", "localhost:http", "127.0.0.1/", "127.0.0.1:{port}/a", "127.0.0.1, a.example"),
    *("127.0.0.1:\xb2", "local host", "127.0.0.1%00", "169.254.169.254", "localhost..", "*"),
]
REFUSED_ORIGINS = [
    *("null", "https://evil.example", "http://evil.example:{port}", "http://localhost:{port}"),
    *("http://127.0.0.1", "http://127.0.0.1:1", "https://photos.example.evil.example", "file://"),
    *("https://sub.photos.example", "http://photos.example", "https://photos.example:8443"),
    *("https://photos.example/", "https://photos.example, http://127.0.0.1:{port}", "*", ""),
    *("chrome-extension://abc", "http://127.0.0.1:{port}@evil.example", "HTTPS://PHOTOS.EXAMPLE.X"),
]


@pytest.fixture(scope="module")
def guarded(finished_run):
    """A server with a token, another name, and a page of another site that may use it."""
    choices = {"token": TOKEN, "hosts": ("photos.home",), "origins": (ORIGIN,)}
    with serving(finished_run.folder, **choices) as found:
        yield found


@pytest.fixture
def connections(monkeypatch):
    """Where this process, and the server in it, wants to connect to."""
    found, connect = [], socket.socket.connect

    def noted(self, address):
        found.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    return found


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_other_hosts_are_refused(client, connections, host, picture):
    text = host.format(port=client.port)
    for start in (
        head("GET /healthz", Host=text),
        head("GET /", Host=text),
        head("POST /predict", Host=text, content_type="image/png", content_length=3) + b"abc",
    ):
        (answer,) = client.raw(start)
        assert answer.status == 421
        assert "access-control-allow-origin" not in answer.headers
    assert {address[1] for address in connections} == {client.port}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:{port}", "[::1]:{port}", "localhost."]
)
def test_own_hosts_pass(client, host):
    (answer,) = client.raw(head("GET /healthz", Host=host.format(port=client.port)))
    assert answer.status == 200


def test_a_host_is_needed_once(client):
    for lines in (
        b"",
        b"Host: 127.0.0.1\r\nHost: evil.example\r\n",
        b"Host: a\r\nHost: 127.0.0.1\r\n",
    ):
        (answer,) = client.raw(b"GET /healthz HTTP/1.1\r\n" + lines + b"\r\n")
        assert answer.status == 421
    (answer,) = client.raw(
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: a\r\n\r\n"
    )
    assert answer.status == 200


@pytest.mark.parametrize("origin", REFUSED_ORIGINS)
def test_other_origins_are_refused(guarded, connections, origin, picture):
    text = origin.format(port=guarded.port)
    for method, path in (
        ("GET", "/info"),
        ("GET", "/"),
        ("POST", "/predict"),
        ("OPTIONS", "/predict"),
    ):
        (answer,) = guarded.raw(
            head(
                f"{method} {path}",
                Host=f"127.0.0.1:{guarded.port}",
                Origin=text,
                Authorization=f"Bearer {TOKEN}",
                Access_Control_Request_Method="POST",
            )
        )
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    assert {address[1] for address in connections} == {guarded.port}


def test_own_pages_pass(client):
    for host in ("127.0.0.1", "localhost"):
        name = f"{host}:{client.port}"
        (answer,) = client.raw(head("GET /info", Host=name, Origin=f"http://{name}"))
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


def test_named_origins_pass(guarded, picture):
    bearer = {"authorization": f"Bearer {TOKEN}"}
    asked = {"origin": ORIGIN, "access_control_request_method": "POST"}
    allowed = guarded.ask("/predict", method="OPTIONS", **asked)
    assert allowed.status == 204
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    taken = allowed.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "inference-header-content-length"} <= set(taken)
    answer = guarded.send("/predict", picture, origin=ORIGIN, **bearer, **PICTURE)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    shown = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-unreadable", "inference-header-content-length"} <= set(shown)
    assert answer.headers["vary"] == "Origin"
    refused = guarded.send("/predict", picture, origin=ORIGIN)
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # so that the page can read it


def test_options_are_for_pages(client):
    answer = client.ask("/predict", method="OPTIONS")
    assert answer.status == 405
    assert answer.headers["allow"]


def test_names_that_are_allowed(guarded):
    for host, status in (("photos.home", 200), ("PHOTOS.home:80", 200), ("photos.homes", 421)):
        (answer,) = guarded.raw(head("GET /healthz", Host=host))
        assert answer.status == status


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}x",
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer{TOKEN}",
        ),
        *(f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN}, Bearer {TOKEN}", "Bearer \xff", "Bearer "),
    ],
)
def test_wrong_tokens_are_refused(guarded, given, picture):
    for path in ("/predict", "/explain", "/v2/models/run/infer"):
        answer = guarded.send(path, picture, authorization=given, **PICTURE)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.body.decode()
    for path in ("/info", "/metrics", "/v2", "/v2/models/run", "/nothing", "/page"):
        assert guarded.ask(path, authorization=given).status == 401


def test_two_tokens_are_refused(guarded):
    lines = f"Authorization: Bearer {TOKEN}\r\n" * 2
    (answer,) = guarded.raw(f"GET /info HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    assert answer.status == 401


def test_the_token_passes(guarded, picture):
    assert (
        guarded.send("/predict", picture, authorization=f"bearer {TOKEN}", **PICTURE).status == 200
    )
    assert guarded.ask("/info", authorization=f"Bearer {TOKEN}").status == 200


def test_health_and_page_need_no_token(guarded):
    for path in [*sorted(guard.OPEN), "/page/index.html"]:
        assert guarded.ask(path).status == 200


def test_tokens_are_compared_in_constant_time(guarded, monkeypatch):
    compared = []

    def noted(first, second):
        compared.append((first, second))
        return real(first, second)

    real = hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", noted)
    assert guarded.ask("/info", authorization="Bearer guess").status == 401
    assert compared == [(b"guess", TOKEN.encode())]


def test_every_answer_is_closed_to_other_sites(client, picture):
    answers = [
        *(client.ask(path) for path in ("/", "/info", "/nothing", "/healthz", "/page/index.html")),
        client.send("/predict", picture),
        client.send("/predict", b"no picture"),
        client.ask("/predict", method="PUT"),
        client.raw(head("GET /", Host="evil.example"))[0],
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers
        assert len(answer.headers["x-request-id"]) == 32


def test_encoded_bodies_are_refused(client, picture):
    for coding in ("gzip", "br", "identity", "deflate, gzip"):
        answer = client.send("/predict", picture, content_encoding=coding, **PICTURE)
        assert answer.status == 415


def test_bodies_over_the_limit_are_refused(client):
    started = head("POST /predict", content_type="image/png", content_length=20_000_001)
    assert client.raw(started)[0].status == 413
    for length in (10**18, 2**63, 2**64, 10**30, -1, "1e3", "0x10", "5 5", "5,5"):
        (answer,) = client.raw(
            head("POST /predict", content_type="image/png", content_length=length)
        )
        assert answer.status in (400, 413)
    assert client.send("/predict", bytes(20_000_000)).status == 422


def test_chunked_bodies_over_the_limit_are_refused(client):
    chunk = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"
    start = head("POST /predict", content_type="image/png", transfer_encoding="chunked")
    with client.connect() as link:
        link.sendall(start + 21 * chunk + b"0\r\n\r\n" + head("GET /healthz"))
        first, second = read(link, 2)
    assert first.status == 413
    assert second.status == 200  # the rest was read, and thrown away


def test_failures_are_told_in_the_log_alone(client, monkeypatch, caplog, picture):
    def fails(*_):
        raise RuntimeError("in /home/me/run\n\x1b[31mof somebody")

    monkeypatch.setattr(Answering, "require_room", fails)
    with caplog.at_level(logging.ERROR, "efftune.serving.guard"):
        answer = client.send("/predict", picture)
        assert eventually(lambda: caplog.records)
    assert answer.status == 500
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["request_id"] in answer.json["error"]
    assert "/home/me" not in answer.body.decode()
    (record,) = caplog.records
    assert record.message.startswith(answer.json["request_id"])
    assert record.message.splitlines()[-1] == repr(
        RuntimeError("in /home/me/run\n\x1b[31mof somebody")
    )
    assert "\x1b" not in record.message


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://Photos.Example", "https://photos.example"),
        ("https://photos.example:443", "https://photos.example"),
        ("HTTP://photos.example:80", "http://photos.example"),
        ("http://photos.example:443", "http://photos.example:443"),
        ("https://photos.example:8080", "https://photos.example:8080"),
    ],
)
def test_origins_are_compared_as_browsers_write_them(given, sent):
    assert ServerSettings(origins=(given,)).origins == (sent,)


def test_reloading_needs_its_signal(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP")  # as on Windows
    with pytest.raises(UsageError, match="--latest FOLDER"):
        ServerSettings(reloads=True)
    assert ServerSettings(serves_latest=True)


def test_settings_that_would_open_the_server():
    for host in ("0.0.0.0", "::", "192.168.1.2", "", "photos.home"):
        with pytest.raises(UsageError, match="token"):
            ServerSettings(host=host)
        ServerSettings(host=host, token=TOKEN)
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert ServerSettings(host=host).is_loopback
    for token in ("", "short", "with blanks in between", "é" * 20, "a" * 15 + "\n"):
        with pytest.raises(UsageError, match="token"):
            ServerSettings(token=token)
    for origin in ("*", "null", "photos.example", "https://photos.example/", "file://"):
        with pytest.raises(UsageError, match="allow-origin"):
            ServerSettings(origins=(origin,))
    for name in ("photos.example:8000", "https://photos.example", "*", "", "a b"):
        with pytest.raises(UsageError, match="allow-host"):
            ServerSettings(hosts=(name,))
    assert TOKEN not in repr(ServerSettings(token=TOKEN))


@pytest.mark.parametrize(
    "choice",
    [
        *({"port": -1}, {"port": 65536}, {"most_bytes": 0}, {"most_pixels": 0}, {"at_work": 0}),
        *({"receive_seconds": 0}, {"receive_seconds": float("nan")}, {"most_waiting": 0}),
        *(
            {"receive_seconds": float("inf")},
            {"drain_seconds": float("inf")},
            {"drain_seconds": -1},
        ),
    ],
)
def test_settings_out_of_range(choice):
    with pytest.raises(UsageError, match="must be"):
        ServerSettings(**choice)


def test_addresses_of_the_network_may_be_asked_for():
    settings = ServerSettings(host="0.0.0.0", token=TOKEN, hosts=("photos.home",))
    for name in ("192.168.1.2", "[fe80::1]", "localhost", "photos.home"):
        assert settings.names(name)
    for name in ("evil.example", "", "192.168.1.2.evil.example"):
        assert not settings.names(name)
