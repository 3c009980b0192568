"""The GDB protocol client against a peer that does what real stubs do rarely or never: split, garbled, late, gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.probe import rsp
from harness.probe.rsp import GdbClient, RspClosed, RspError

Answer = Callable[[bytes], bytes]


def packet(body: bytes) -> bytes:
    return b"$" + body + b"#%02x" % (sum(body) & 0xFF)


@contextmanager
def connected(answer: Answer, **options: float) -> Iterator[GdbClient]:
    """A client whose peer sends answer(body), raw, for every packet; b"" closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                buffer = b""
                while data := peer.recv(65536):
                    buffer += data
                    while b"#" in buffer[:-2]:
                        end = buffer.index(b"#", 0, -2)
                        body, buffer = buffer[buffer.index(b"$") + 1 : end], buffer[end + 3 :]
                        reply = packet(b"PacketSize=100") if body.startswith(b"qSupported") else answer(body)
                        if not reply:
                            return
                        peer.sendall(b"+" + reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            client = GdbClient("127.0.0.1", server.getsockname()[1], **{"reply_timeout": 5.0, **options})
            try:
                yield client
            finally:
                client.close()
        finally:
            thread.join(10)
            assert not thread.is_alive()


def always(body: bytes) -> Answer:
    return lambda _: packet(body)


def test_long_reads_take_several_packets() -> None:
    def memory(body: bytes) -> bytes:
        if not body.startswith(b"m"):
            return packet(b"")
        address, count = (int(part, 16) for part in body[1:].split(b","))
        return packet(bytes((address + i) & 0xFF for i in range(count)).hex().encode())

    with connected(memory) as client:
        assert client.read_memory(0x1000, 1000) == bytes(i & 0xFF for i in range(1000))


@pytest.mark.parametrize("reply", [b"E01", b"E9999", b"", b"12", b"1234567", b"zzzzzzzz"])
def test_a_read_that_fails_is_an_error(reply: bytes) -> None:
    with connected(always(reply)) as client, pytest.raises(RspError):
        client.read_memory(0, 4)


def test_run_length_encoding_and_escapes_are_undone() -> None:
    with connected(always(b"0* }\x03")) as client:  # "0" and three more, an escaped "#"
        assert client.exchange(b"qTest") == b"0000#"


@given(st.binary())
def test_escaped_bytes_decode_to_themselves(data: bytes) -> None:
    escaped = rsp._escaped(data)
    assert not set(escaped) & set(b"#$*")
    assert rsp._decoded(escaped) == data


def test_a_stop_reply_is_never_the_answer_to_a_packet() -> None:
    with connected(lambda _: packet(b"T05thread:01;") + packet(b"OK")) as client:
        assert client.exchange(b"Z1,0,2") == b"OK"
        assert not client.running


def test_a_stop_is_noticed_without_sending_anything() -> None:
    with connected(lambda body: packet(b"T05hwbreak:;") if body == b"c" else packet(b"")) as client:
        client.resume()
        assert client.running
        deadline = time.monotonic() + 5
        while client.poll() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not client.running
        assert not client.stopped_by_interrupt


def test_packets_to_a_running_core_are_refused_unless_the_stub_serves_them() -> None:
    with connected(lambda body: b"+" if body == b"c" else packet(b"ff")) as client:
        client.resume()
        with pytest.raises(RspError, match="while the core runs"):
            client.read_memory(0, 1)
        client.serves_while_running = True
        assert client.read_memory(0, 1) == b"\xff"


def test_a_wrong_checksum_is_an_error() -> None:
    garbled = connected(lambda body: b"$OK#00" if body == b"qTest" else packet(b""))
    with garbled as client, pytest.raises(RspError, match="wrong checksum"):
        client.exchange(b"qTest")


def test_a_stub_that_closes_the_connection_is_gone() -> None:
    with connected(lambda body: b"" if body == b"qTest" else packet(b"")) as client:
        for _ in range(2):
            with pytest.raises(RspClosed):
                client.exchange(b"qTest")


def test_a_stub_that_does_not_answer_is_gone() -> None:
    def silent(body: bytes) -> bytes:
        return b"+" if body == b"qTest" else packet(b"")

    with connected(silent, reply_timeout=0.2) as client:
        with pytest.raises(RspClosed, match=r"did not answer within 0\.2 s"):
            client.exchange(b"qTest")
        with pytest.raises(RspClosed):  # a late answer would be taken for this packet's
            client.exchange(b"qOther")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RspClosed, match="no GDB stub answers"):
        GdbClient("127.0.0.1", port, connect_timeout=0.1)
    started = time.monotonic()
    with pytest.raises(RspClosed):
        GdbClient("127.0.0.1", port, connect_timeout=60, keep_trying=lambda: False)
    assert time.monotonic() - started < 5


def test_monitor_output_is_collected() -> None:
    def monitor(body: bytes) -> bytes:
        if body == b"qRcmd," + b"info".hex().encode():
            return packet(b"O" + b"two ".hex().encode()) + packet(b"O" + b"parts".hex().encode()) + packet(b"OK")
        return packet(b"")

    with connected(monitor) as client:
        assert client.monitor("info") == "two parts"
        with pytest.raises(RspError, match="monitor command 'other'"):
            client.monitor("other")
