#!/usr/bin/env python3
"""Tries the example axum_parked with Python's own HTTP client, and with bare sockets.

    python3 client.py HOST:PORT

Prints a line for each thing tried; exits with 1 at the first that fails."""

import hashlib
import http.client
import json
import os
import socket
import sys
import time

HOST, PORT = sys.argv[1].rsplit(":", 1)
# Long enough to be parked, whenever that is done.
IDLE = 0.3


def connect():
    return http.client.HTTPConnection(HOST, int(PORT), timeout=20)


def ask(connection, method, path, body=None, headers={}, **how):
    connection.request(method, path, body, headers, **how)
    response = connection.getresponse()
    return response.status, response.read()


def same(actual, expected):
    assert actual == expected, f"{str(actual)[:200]} instead of {str(expected)[:200]}"


def greeting(name):
    return 200, json.dumps({"hello": name}, separators=(",", ":")).encode()


def kept_alive():
    connection = connect()
    connection.connect()
    port = connection.sock.getsockname()
    for n in range(5):
        same(ask(connection, "GET", f"/hello/{n}"), greeting(str(n)))
        same(connection.sock.getsockname(), port)
        time.sleep(IDLE if n % 2 else 0)
    same(ask(connection, "GET", "/nothing")[0], 404)
    same(ask(connection, "DELETE", "/upload")[0], 405)
    same(ask(connection, "HEAD", "/hello/x"), (200, b""))
    same(connection.sock.getsockname(), port)


def many_kept_alive():
    connections = [connect() for _ in range(300)]
    for round in range(3):
        for n, connection in enumerate(connections):
            same(ask(connection, "GET", f"/hello/{round}-{n}"), greeting(f"{round}-{n}"))
        time.sleep(IDLE)


def uploads():
    connection = connect()
    for length in [0, 1, 65536, 5_000_000]:
        body = os.urandom(length)
        expected = {"bytes": length, "sha256": hashlib.sha256(body).hexdigest()}
        status, answer = ask(connection, "POST", "/upload", body)
        same((status, json.loads(answer)), (200, expected))
        pieces = (body[at : at + 9_999] for at in range(0, length, 9_999))
        status, answer = ask(connection, "POST", "/upload", pieces, encode_chunked=True)
        same((status, json.loads(answer)), (200, expected))
        time.sleep(IDLE)
    # Slowly, and the next request behind it.
    body = b"slow" * 10
    connection.putrequest("POST", "/upload")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    for at in range(0, len(body), 4):
        connection.send(body[at : at + 4])
        time.sleep(0.05)
    response = connection.getresponse()
    same(json.loads(response.read())["bytes"], len(body))
    same(ask(connection, "GET", "/hello/after"), greeting("after"))


def streams():
    connection = connect()
    connection.request("GET", "/stream/10")
    response = connection.getresponse()
    start = time.monotonic()
    pieces = []
    while piece := response.read1():
        pieces.append((time.monotonic() - start, piece))
    same(b"".join(piece for _, piece in pieces), b"".join(b"chunk %d\n" % n for n in range(10)))
    assert pieces[-1][0] - pieces[0][0] > 0.1, "it came all at once"
    same(ask(connection, "GET", "/hello/after"), greeting("after"))


class Raw:
    def __init__(self):
        self.socket = socket.create_connection((HOST, int(PORT)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self.file = self.socket.makefile("rb")

    def answer(self):
        same(self.file.readline().split(b" ")[1], b"200")
        length = 0
        while (line := self.file.readline()) != b"\r\n":
            name, value = line.split(b":", 1)
            if name.lower() == b"content-length":
                length = int(value)
        return self.file.read(length)

    def answers(self, names):
        for name in names:
            same(self.answer(), greeting(name)[1])


def request(name):
    return f"GET /hello/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def pipelined():
    raw = Raw()
    for count in [1, 2, 60]:
        names = [str(n) for n in range(count)]
        raw.socket.sendall(b"".join(map(request, names)))
        raw.answers(names)
        time.sleep(IDLE)
    # One and a half, and the rest later.
    both = request("one") + request("two")
    raw.socket.sendall(both[:-20])
    raw.answers(["one"])
    time.sleep(IDLE)
    raw.socket.sendall(both[-20:])
    raw.answers(["two"])


def byte_by_byte():
    raw = Raw()
    for name in ["slowly", "again"]:
        for byte in request(name):
            raw.socket.sendall(bytes([byte]))
            time.sleep(0.002)
        raw.answers([name])
        time.sleep(IDLE)


def ends():
    raw = Raw()
    raw.socket.sendall(request("last").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    raw.answers(["last"])
    same(raw.file.read(), b"")
    raw = Raw()
    raw.socket.sendall(b"GET /hello/old HTTP/1.0\r\n\r\n")
    raw.answers(["old"])
    same(raw.file.read(), b"")
    raw = Raw()
    raw.socket.sendall(b"nonsense\r\n\r\n")
    same(raw.file.read().split(b" ")[1], b"400")
    # The peer is gone, at any point.
    for sent in [b"", request("x")[:9], request("x"), request("x") + request("y")[:9]]:
        Raw().socket.sendall(sent)


def events():
    connection = connect()
    connection.request("GET", "/pond/events")
    response = connection.getresponse()
    same(response.getheader("content-type"), "text/event-stream")
    counts = []
    while len(counts) < 3:
        line = response.readline()
        if line.startswith(b"data: "):
            counts.append(json.loads(line[6:])["pool"]["completed"])
            same(ask(connect(), "GET", "/hello/x"), greeting("x"))
    assert counts[-1] > counts[0], counts


for tried in [kept_alive, many_kept_alive, uploads, streams, pipelined, byte_by_byte, ends, events]:
    tried()
    print(tried.__name__)
