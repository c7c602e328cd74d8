"""Clients that are slow, that lie, or that do not speak HTTP; and those beside them."""

import contextlib
import resource
import socket
import struct
import threading
import time

import psutil
import pytest

from efftune.serving import connections, server

from .client import eventually, head, is_ended, multipart, read
from .conftest import serving

POST = {"content_type": "image/png"}


def is_well(client, picture) -> bool:
    """Whether others are answered, and soon."""
    began = time.monotonic()
    return client.send("/predict", picture).status == 200 and time.monotonic() - began < 1


@pytest.mark.ci
@pytest.mark.parametrize(
    "start",
    [
        *(b"", b"G", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "),
        *(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"\r\n"),
    ],
)
def test_headers_that_never_end(client, start):
    with client.connect() as link:
        link.sendall(start)
        assert is_ended(link, 5)


@pytest.mark.ci
def test_headers_a_byte_at_a_time(client):
    with client.connect() as link, contextlib.suppress(OSError):
        link.sendall(b"GET /")
        for _ in range(40):
            link.sendall(b"a")
            time.sleep(0.05)
        pytest.fail("the connection outlived the time for its headers")


@pytest.mark.ci
def test_blank_lines_keep_no_connection(client):
    with client.connect() as link:
        link.sendall(head("GET /healthz"))
        assert read(link)[0].status == 200
        link.sendall(b"\r\n")
        assert is_ended(link, 5)


@pytest.mark.ci
def test_a_body_that_never_ends_is_told_so(client, picture):
    for length in (len(picture) + 1, 19_000_000):  # false
        with client.connect() as link:
            link.sendall(head("POST /predict", **POST, content_length=length) + picture)
            (answer,) = read(link)
            assert answer.status == 408
            assert answer.headers["connection"] == "close"
            assert is_ended(link, 5)


def test_a_body_that_is_longer_than_it_said(client, picture):
    start = head("POST /predict", **POST, content_length=len(picture) - 1)
    (answer,) = client.raw(start + picture + head("GET /healthz"), answers=2)
    assert answer.json.get("label", "red") == "red"
    assert answer.headers["connection"] == "close"


def test_a_body_that_ends_with_its_connection(client, picture):
    before = client.counted().get("499", 0)
    with client.connect() as link:
        link.sendall(head("POST /predict", **POST, content_length=len(picture)) + picture[:-1])
    assert eventually(lambda: client.counted().get("499", 0) == before + 1)


def test_six_bytes_at_a_time(client, squares):
    content = squares["red.png"][:1500]
    chunks = (content[place : place + 6] for place in range(0, len(content), 6))
    body = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    start = head("POST /predict", **POST, transfer_encoding="chunked")
    assert client.raw(start + body)[0].json["reason"] == "truncated"
    parts = [(start + body)[place : place + 6] for place in range(0, len(start + body), 6)]
    assert client.raw(*parts)[0].json["reason"] == "truncated"


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        *(b"GET / HTTP/3.0\r\n\r\n", b"nonsense\r\n\r\n", b"GET\r\n\r\n"),
        *(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", b"\0\0\0\0"),
        *(b"GET /\0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"get / HTTP/1.1\r\n\r\n"),
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX\0: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\xe9: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX : a\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET ?a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request(client, request_bytes):
    before = client.counted()
    (answer,) = client.raw(request_bytes)
    assert answer.status == 400
    assert answer.json["error"]
    assert answer.headers["connection"] == "close"
    after = client.counted()
    assert after["400"] == before.get("400", 0) + 1


@pytest.mark.parametrize(
    "lines",
    [
        *("Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\nContent-Length: 5"),
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        *("Transfer-Encoding: chunked, identity", "Transfer-Encoding: xchunked"),
        "Content-Length: +5",
        *("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Content-Length: 5,5"),
    ],
)  # fmt: skip
def test_contradictions_about_the_length(client, lines):
    start = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n{lines}\r\n\r\n"
    )
    found = client.raw(start.encode() + b"0\r\n\r\n" + head("GET /info"), answers=2)
    assert [each.status for each in found] == [400]


@pytest.mark.parametrize(
    "chunk", [b"x\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n", b"fffffffffffffffff\r\n"]
)
def test_chunks_that_are_none(client, chunk):
    start = head("POST /predict", **POST, transfer_encoding="chunked")
    (answer,) = client.raw(start, chunk, pause=0.05)
    assert answer.status == 400


def test_giant_headers(client):
    for start in (
        head("GET /healthz", **{f"X{number}": "a" * 900 for number in range(80)}),
        head("GET /healthz", X="a" * 70_000),
        head("GET /healthz", **{f"X{number}": "" for number in range(120)}),
        head("GET /" + "a" * 70_000),
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"a" * 2_000_000,
    ):
        (answer,) = client.raw(start)
        assert answer.status == 431
    (answer,) = client.raw(
        head("GET /healthz", **{f"X{number}": "a" * 600 for number in range(90)})
    )
    assert answer.status == 200


def test_endless_headers_after_the_body(client):
    start = head("POST /predict", **POST, transfer_encoding="chunked") + b"1\r\na\r\n0\r\n"
    trailers = b"".join(b"X%d: %b\r\n" % (number, b"a" * 4000) for number in range(400))
    assert client.raw(start, trailers, pause=0.05)[0].status == 431
    one = b"X: " + b"a" * 1_000_000
    assert client.raw(start, one, pause=0.05)[0].status == 431


def test_some_headers_after_the_body_are_taken(client, squares):
    content = squares["red.png"]
    start = head("POST /predict", **POST, transfer_encoding="chunked")
    body = b"%x\r\n%s\r\n0\r\nHost: evil\r\nX: y\r\n\r\n" % (len(content), content)
    assert [each.status for each in client.raw(start + body + head("GET /info"), answers=2)] == [
        200,
        200,
    ]


def test_pipelined_requests_are_answered_in_order(client, squares, picture):
    requests, expected = [], []
    for name, content in squares.items():
        requests.append(head("POST /predict", **POST, content_length=len(content)) + content)
        requests.append(head("GET /nothing"))
        expected += [name.partition(".")[0], 404]
    found = client.raw(b"".join(requests), answers=len(requests))
    assert [each.json.get("label", each.status) for each in found] == expected


def test_too_many_pipelined_requests(client):
    found = client.raw(1000 * head("GET /healthz"), answers=1000)
    assert len(found) <= 40


def test_older_http(client):
    (answer,) = client.raw(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    (answer,) = client.raw(
        b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n"
    )
    assert answer.status == 200


@pytest.mark.parametrize("kind", ["websocket", "h2c"])
def test_other_protocols_are_not_spoken(client, kind, picture):
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": kind, "HTTP2_Settings": "AAEAAEAA"}
    length = {"content_length": len(picture)}
    post = head("POST /predict", **POST, **length, **offer) + picture
    found = client.raw(head("GET /info", **offer) + post + post + head("GET /healthz"), answers=4)
    assert [each.status for each in found] == [200] * 4
    assert found[2].json["label"] == "red"
    (answer,) = client.raw(*(post[place : place + 50] for place in range(0, len(post), 50)))
    assert answer.json["label"] == "red"
    chunked = head("POST /predict", **POST, transfer_encoding="chunked", **offer)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(picture), picture)
    assert client.raw(chunked, body, pause=0.05)[0].json["label"] == "red"


def test_clients_that_ask_before_they_send(client, picture):
    asked = {**POST, "content_length": len(picture), "Expect": "100-continue"}
    with client.connect() as link:
        link.sendall(head("POST /predict", **asked))
        assert link.recv(100).startswith(b"HTTP/1.1 100")
        link.sendall(picture + head("GET /healthz"))
        assert [each.status for each in read(link, 2)] == [200, 200]
    for change in (
        {"content_length": 10**9},
        {"Host": "evil.example"},
        {"content_encoding": "gzip"},
    ):
        with client.connect() as link:
            link.sendall(head("POST /predict", **{**asked, **change}))
            (answer,) = read(link)  # at once, and the body is not asked for
            assert answer.status in (413, 415, 421)
            assert answer.headers["connection"] == "close"
            assert is_ended(link, 0.5)


def test_what_comes_after_a_refusal_is_thrown_away(client):
    start = head("POST /nothing", **POST, content_length=5_000_000)
    found = client.raw(start + bytes(5_000_000) + head("GET /healthz"), answers=2)
    assert [each.status for each in found] == [404, 200]


@pytest.mark.ci
def test_what_comes_after_a_refusal_comes_in_time(client):
    with client.connect() as link:
        link.sendall(head("POST /nothing", **POST, content_length=5_000_000) + b"a")
        assert read(link)[0].status == 404
        assert is_ended(link, 5)


@pytest.mark.ci
def test_a_client_that_has_left_costs_no_work(finished_run, picture):
    with serving(finished_run.folder, at_work=1) as client:
        answers = client.state.answering
        begun, free = threading.Event(), threading.Event()

        def held(_: object) -> None:
            begun.set()
            free.wait(20)

        blocker = answers._pool.submit(held, None)
        assert begun.wait(5)
        links = [client.connect() for _ in range(5)]
        for link in links:
            link.sendall(head("POST /predict", **POST, content_length=len(picture)) + picture)
        assert eventually(lambda: client.gauge("efftune_waiting") == 5)
        for link in links[:4]:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()
        time.sleep(0.2)
        free.set()
        assert read(links[4])[0].json["label"] == "red"
        blocker.result()
        assert eventually(lambda: client.counted().get("499") == 4)
        page = client.ask("/metrics").body.decode()
        assert "efftune_decode_seconds_count 1.0" in page
        assert client.gauge("efftune_waiting") == client.gauge("efftune_at_work") == 0


@pytest.mark.ci
def test_500_slow_clients_beside_good_ones(client, picture):
    whole = head("POST /predict", **POST, content_length=100_000) + bytes(100_000)
    links = [client.connect() for _ in range(500)]
    try:
        began, place, seconds = time.monotonic(), 0, []
        while time.monotonic() - began < 3:
            for number, link in enumerate(links):
                with contextlib.suppress(OSError):
                    link.sendall(whole[place : place + 6] if number % 2 else b"G")
            place += 6
            once = time.monotonic()
            assert client.send("/predict", picture).status == 200
            seconds.append(time.monotonic() - once)
        assert max(seconds) < 1
        assert len(seconds) > 5
        assert all(is_ended(link, 5) for link in links)
    finally:
        for link in links:
            link.close()


@pytest.mark.long
def test_bodies_that_wait_are_bounded(client, picture):
    """40 clients that do not end a body of 19 MB each."""
    memory = psutil.Process().memory_info
    with serving(client.run, receive_seconds=4.0) as own:
        before, links = memory().rss, [own.connect() for _ in range(40)]
        whole = head("POST /predict", **POST, content_length=19_000_001) + bytes(19_000_000)

        def sent(link: socket.socket) -> None:
            with contextlib.suppress(OSError):
                link.sendall(whole)

        threads = [threading.Thread(target=sent, args=(link,)) for link in links]
        for each in threads:
            each.start()
        most = 0
        while any(each.is_alive() for each in threads):
            most = max(most, memory().rss - before)
            time.sleep(0.02)
        assert {read(link)[0].status for link in links} == {408, 503}
        assert most < 500_000_000
        for link in links:
            link.close()
        assert is_well(own, picture)


@pytest.mark.ci
def test_clients_that_do_not_read(client, monkeypatch, picture):
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.5)
    with client.connect() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(0.2)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                link.sendall(20 * head("GET /metrics"))
        assert eventually(lambda: not client.holds(link), 20)
    assert is_well(client, picture)


@pytest.mark.ci
def test_more_connections_than_there_may_be(finished_run, picture, monkeypatch):
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 20)
    with serving(finished_run.folder, receive_seconds=1.0) as client:
        links = [client.connect() for _ in range(60)]
        assert sum(is_ended(link, 0.1) for link in links[-30:]) == 30
        for link in links:
            link.close()
        assert eventually(lambda: is_well(client, picture))


def test_open_files_are_as_many_as_the_system_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (900, before[1]))
        most = server._most_connections()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(before[1], 10_100)
        assert 0 < most <= soft - 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_multipart_of_several_megabytes_blocks_nobody(client, picture):
    body = multipart({f"{number}.png": bytes(300_000) for number in range(60)})
    threads = [
        threading.Thread(target=client.send_several, args=("/predict", {"a": body}))
        for _ in range(3)
    ]
    for each in threads:
        each.start()
    assert is_well(client, picture)
    for each in threads:
        each.join()
