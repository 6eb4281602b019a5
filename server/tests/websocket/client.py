#!/usr/bin/env python3
"""Tries the WebSocket example with a client that shares no code with it.

    python3 client.py HOST:PORT

Prints a line for each thing tried; exits with 1 at the first that fails."""

import base64
import hashlib
import os
import socket
import struct
import sys
import time

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
HOST, PORT = sys.argv[1].rsplit(":", 1)


def frame(opcode, payload=b"", fin=True, masked=True, reserved=0):
    head = bytes([(0x80 if fin else 0) | reserved | opcode])
    mark = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mark | len(payload)])
    elif len(payload) < 65536:
        head += bytes([mark | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([mark | 127]) + struct.pack(">Q", len(payload))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = mask * (len(payload) // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, repeated))


class Client:
    def __init__(self, slowly=False, early=b""):
        self.socket = socket.create_connection((HOST, int(PORT)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(10)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: WebSocket\r\n"
            f"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        (self.trickle if slowly else self.send)(request + early)
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode().lower().split("\r\n")
        same(lines[0].split(" ", 2)[:2], ["http/1.1", "101"])
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        expected = {"upgrade: websocket", "connection: upgrade"}
        expected.add(f"sec-websocket-accept: {accept.lower()}")
        assert expected <= set(lines), lines

    def send(self, data):
        self.socket.sendall(data)

    def trickle(self, data):
        for at in range(len(data)):
            self.send(data[at : at + 1])
            time.sleep(0.0005)

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def take(self, count):
        while len(self.buffer) < count:
            self.more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive(self):
        first, second = self.take(2)
        same(first & 0xF0, 0x80)
        length = second  # a server does not mask
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
            assert length > 125
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8))
            assert length > 65535
        return first & 15, self.take(length)

    def closes_for(self, code, patiently=False):
        """It says why, and then ends the connection: soon, or as soon as its peer does."""
        opcode, payload = self.receive()
        same((opcode, payload[:2]), (CLOSE, struct.pack(">H", code)))
        if not patiently:
            self.socket.shutdown(socket.SHUT_WR)
        try:
            self.more()
            raise AssertionError(f"there is more: {self.buffer}")
        except EOFError:
            self.socket.close()


def same(actual, expected):
    assert actual == expected, f"{str(actual)[:100]} instead of {str(expected)[:100]}"


def lengths():
    client = Client()
    for length in [0, 1, 125, 126, 127, 65535, 65536, 1024 * 1024]:
        payload = os.urandom(length)
        client.send(frame(BINARY, payload))
        same(client.receive(), (BINARY, payload))


def byte_by_byte():
    client = Client(slowly=True)
    for length in [0, 5, 126, 300]:
        text = ("é" * length).encode()[:length // 2 * 2]
        client.trickle(frame(TEXT, text))
        same(client.receive(), (TEXT, text))


def in_every_two_parts():
    client = Client()
    data = frame(TEXT, b"x" * 130) + frame(PING, b"?") + frame(1, b"a", fin=False) + frame(0, b"b")
    for at in range(len(data)):
        client.send(data[:at])
        time.sleep(0.001)
        client.send(data[at:])
        expected = [(TEXT, b"x" * 130), (PONG, b"?"), (TEXT, b"ab")]
        same([client.receive() for _ in expected], expected)


def fragments():
    client = Client()
    text = "grüße 🦀".encode()
    data = frame(TEXT, text[:3], fin=False)
    for at in range(3, len(text)):
        # Control frames may come in between, and are answered there.
        data += frame(PING, bytes([at])) + frame(0, text[at : at + 1], fin=False)
    client.send(data + frame(0))
    for at in range(3, len(text)):
        same(client.receive(), (PONG, bytes([at])))
    same(client.receive(), (TEXT, text))
    client.send(frame(BINARY, b"1", fin=False))
    time.sleep(0.1)
    client.send(frame(0, b"2", fin=False) + frame(0, b"3") + frame(TEXT, b"4"))
    same([client.receive(), client.receive()], [(BINARY, b"123"), (TEXT, b"4")])


def controls():
    client = Client()
    client.send(frame(PONG, b"unasked") + frame(PING, b"p" * 125) + frame(PING) + frame(TEXT, b"t"))
    same([client.receive() for _ in range(3)], [(PONG, b"p" * 125), (PONG, b""), (TEXT, b"t")])


def many_at_once():
    client = Client(early=b"".join(frame(TEXT, str(n).encode()) for n in range(1000)))
    for n in range(1000):
        same(client.receive(), (TEXT, str(n).encode()))


def everybody():
    clients = [Client() for _ in range(50)]
    for client in clients:
        client.send(frame(PING))
        same(client.receive(), (PONG, b""))
    for n in range(20):
        clients[n].send(frame(TEXT, f"/all {n}".encode()))
        for client in clients:
            same(client.receive(), (TEXT, str(n).encode()))
    for client in clients:
        client.socket.close()


def closes():
    for code, reason in [(1000, b"bye"), (1001, b""), (3000, b"mine"), (4999, "ß".encode())]:
        client = Client()
        # What comes after a close is not served.
        client.send(frame(CLOSE, struct.pack(">H", code) + reason) + frame(TEXT, b"too late"))
        same(client.receive(), (CLOSE, struct.pack(">H", code) + reason))
        ends(client)
    client = Client()
    client.send(frame(CLOSE))
    same(client.receive(), (CLOSE, b""))
    ends(client)


def ends(client):
    try:
        same(client.socket.recv(1), b"")
    except ConnectionResetError:
        pass  # it had sent more


def errors():
    invalid = struct.pack(">H", 1005)
    for code, data in [
        (1002, frame(TEXT, b"x", masked=False)),
        (1002, frame(3, b"x")),
        (1002, frame(11, b"x")),
        (1002, frame(TEXT, b"x", reserved=0x40)),
        (1002, frame(0, b"of nothing")),
        (1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"y")),
        (1002, frame(PING, b"x" * 126)),
        (1002, frame(PING, fin=False)),
        (1002, frame(CLOSE, b"x")),
        (1002, frame(CLOSE, invalid)),
        (1007, frame(TEXT, b"\xff")),
        (1007, frame(TEXT, b"\xc3")),
        (1007, frame(TEXT, b"ab\xc3", fin=False) + frame(0, b"\xc3")),
        (1007, frame(CLOSE, struct.pack(">H", 1000) + b"\xff")),
        (1009, frame(BINARY, bytes(1024 * 1024 + 1))),
        (1009, b"\x82\xff" + b"\x7f" + bytes(7) + bytes(4)),
        (1009, frame(BINARY, bytes(700_000), fin=False) + frame(0, bytes(700_000))),
    ]:
        client = Client()
        client.send(data + frame(TEXT, b"not served"))
        client.closes_for(code)
    client = Client()
    client.send(frame(TEXT, b"x", masked=False))
    client.closes_for(1002, patiently=True)


def requests():
    for request, status in [
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"POST /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 426),
        (b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000, 431),
    ]:
        with socket.create_connection((HOST, int(PORT))) as client:
            client.settimeout(10)
            client.sendall(request)
            answer = b""
            while data := client.recv(65536):
                answer += data
        head, body = answer.split(b"\r\n\r\n", 1)
        same(head.split(b" ")[1], str(status).encode())
        assert f"content-length: {len(body)}".encode() in head.lower(), head


def hangs_up():
    for data in [b"", frame(TEXT, b"half")[:5], frame(TEXT, b"half", fin=False)]:
        client = Client()
        client.send(data)
        client.socket.close()


for tried in [lengths, byte_by_byte, in_every_two_parts, fragments, controls, many_at_once,
              everybody, closes, errors, requests, hangs_up, lengths]:
    tried()
    print(tried.__name__.replace("_", " "))
