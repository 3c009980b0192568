"""The client against the real firmware, compiled for this machine, over ptys and TCP - and over lines that break."""

from __future__ import annotations

import itertools
import os
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial
import serial.rfc2217
from hypothesis import example, given, settings
from hypothesis import strategies as st
from link_board import BUILD_ID, Board, Line, at, build, double, drop, flip, insert

from harness.errors import DeviceError, InputError
from harness.link.answers import LayerCrcs, LineError, Profile, RefusedError, SilentBoardError, Stack
from harness.link.client import BoardClient
from harness.link.serial_port import SerialPort, open_port

# Short, for faults that are only noticed by waiting; a pty's answer takes less than a millisecond.
STALL_S = 0.3


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The firmware for an input of so many bytes, compiled once."""
    folder, made = tmp_path_factory.mktemp("link firmware"), {}

    def get(input_bytes: int) -> Path:
        if input_bytes not in made:
            made[input_bytes] = build(folder, input_bytes)
        return made[input_bytes]

    return get


@pytest.fixture
def board(firmware: Callable[[int], Path]) -> Iterator[Board]:
    with Board(firmware(1024)) as running:
        yield running


@pytest.fixture
def client(board: Board) -> Iterator[BoardClient]:
    with open_port(board.url) as port:
        yield BoardClient(port, stall=STALL_S)


def image(size: int = 1024, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def expected(data: bytes) -> LayerCrcs:
    """What the network of link_network/ gives for `data`."""
    inverted = bytes(255 - byte for byte in data)
    output = [sum(inverted[k::4]) - 1000 * k for k in range(4)]
    packed = struct.pack("<4i", *output)
    checksums = tuple(f"{zlib.crc32(layer):08x}" for layer in (inverted, packed))
    return LayerCrcs(checksums, output.index(max(output)), packed)


class TestHealthyLine:
    def test_the_board_says_what_it_is(self, client: BoardClient) -> None:
        assert client.name() == "host"
        assert client.profile() == Profile("ULPMark for tinyML Firmware V0.0.1", "tiny")
        assert client.build() == BUILD_ID
        assert client.stack() == Stack(0, 0)

    def test_an_input_is_loaded_inferred_timed_and_checked(self, client: BoardClient) -> None:
        data = image()
        client.load_input(data)
        # The network consumes its input: each command, and each run, must get it afresh.
        for _ in range(2):
            assert client.layer_crcs(2) == expected(data)
        inference = client.infer(3, 1, outputs=4)
        scores = struct.unpack("<4i", expected(data).output)
        assert inference.scores == tuple(score / 1000 for score in scores)
        assert inference.predicted == expected(data).predicted
        ticks = client.ticks(5)
        assert len(ticks.ticks) == 5
        assert ticks.tick_hz == 1_000_000_000
        assert 0 <= ticks.empty < min(ticks.ticks)
        assert len(client.layers(2).ticks) == 2
        assert client.layer_crcs(2) == expected(data)
        assert client.retries == 0

    @pytest.mark.parametrize("size", [1, 31, 32, 490, 4096, 27_648])
    def test_inputs_of_every_size(self, firmware: Callable[[int], Path], size: int) -> None:
        """1, 31 and 32: around one line. 27,648: MLPerf Tiny's largest; its answers do not all fit a pty's buffer."""
        with Board(firmware(size)) as board, open_port(board.url) as port:
            client = BoardClient(port)
            client.load_input(image(size))
            assert client.layer_crcs() == expected(image(size))
            assert client.retries == 0

    def test_over_tcp(self, firmware: Callable[[int], Path]) -> None:
        with Board(firmware(1024), tcp=True) as board, open_port(board.url) as port:
            client = BoardClient(port)
            client.load_input(image())
            assert client.layer_crcs(2) == expected(image())

    def test_over_rfc2217(self, firmware: Callable[[int], Path]) -> None:
        with Board(firmware(1024), tcp=True) as board, Rfc2217Server(board.url) as url, open_port(url) as port:
            client = BoardClient(port)
            client.load_input(image())
            assert client.layer_crcs(2) == expected(image())

    def test_many_runs_in_one_answer(self, client: BoardClient) -> None:
        client.load_input(image())
        assert len(client.ticks(3_000).ticks) == 3_000

    def test_a_port_can_be_opened_again(self, board: Board) -> None:
        for _ in range(3):
            with open_port(board.url) as port:
                assert BoardClient(port).build() == BUILD_ID


class TestRefusals:
    def test_the_boards_reason_is_passed_on(self, client: BoardClient) -> None:
        for ask in (client.ticks, client.layers, client.layer_crcs, client.infer):
            with pytest.raises(RefusedError, match="no input loaded"):
                ask()
        assert client.build() == BUILD_ID

    def test_an_input_of_the_wrong_size(self, client: BoardClient) -> None:
        with pytest.raises(DeviceError, match="input bytes must be 1024") as caught:
            client.load_input(b"12345")
        assert caught.value.hint is None
        client.load_input(image())

    def test_counts_and_inputs_that_make_no_sense_are_not_sent(self, client: BoardClient) -> None:
        for ask in (
            lambda: client.ticks(0),
            lambda: client.infer(10**9, 0),
            lambda: client.infer(1, -1),
            lambda: client.load_input(b""),
        ):
            with pytest.raises(InputError):
                ask()

    def test_a_number_of_layers_that_is_not_the_networks(self, client: BoardClient) -> None:
        client.load_input(image())
        with pytest.raises(LineError, match="2 layers, not 5"):
            client.layer_crcs(5)


# The sizes of both streams while 1,024 bytes are loaded: `%`, `db load 1024%`, 33 lines of 66, one of 6, `db crc%`.
SENT = 1 + 13 + 33 * 66 + 6 + 7
SYNC = len("e-[unknown command]\r\nm-ready\r\n")
ANSWERED = SYNC + 26 + 9 + 34 * 9 + 13 + 16 + 9
changes = st.one_of(
    st.just(drop),
    st.just(double),
    st.integers(1, 255).map(flip),
    st.binary(min_size=1, max_size=5).map(insert),
)


class TestBrokenLine:
    @settings(max_examples=20)
    @example(position=1, change=drop)
    @example(position=SENT - 8, change=drop)
    @example(position=14 + 65, change=drop)
    @example(position=14 + 66 + 7, change=flip(1))
    @given(position=st.integers(0, SENT - 1), change=changes)
    def test_one_fault_on_the_way_to_the_board_never_changes_the_input(
        self, firmware: Callable[[int], Path], position: int, change: Callable[[bytes], bytes]
    ) -> None:
        with Board(firmware(1024), to_board=at(position, change)) as board, open_port(board.url) as port:
            client = BoardClient(port, stall=STALL_S)
            client.load_input(image())
            assert client.layer_crcs(2) == expected(image())
            assert client.retries <= 1

    @settings(max_examples=20)
    @example(position=SYNC + 26 + 9, change=drop)
    @example(position=ANSWERED - 20, change=flip(1))
    @given(position=st.integers(0, ANSWERED - 1), change=changes)
    def test_one_fault_on_the_way_back_never_changes_the_input(
        self, firmware: Callable[[int], Path], position: int, change: Callable[[bytes], bytes]
    ) -> None:
        with Board(firmware(1024), to_host=at(position, change)) as board, open_port(board.url) as port:
            client = BoardClient(port, stall=STALL_S)
            client.load_input(image())
            assert client.layer_crcs(2) == expected(image())
            assert client.retries <= 1

    def test_a_changed_digit_is_found_by_the_checksum(self, firmware: Callable[[int], Path]) -> None:
        """0x01: every hexadecimal digit stays one. Only the checksum can tell."""
        with Board(firmware(1024), to_board=at(14 + 66 + 7, flip(1))) as board, open_port(board.url) as port:
            client = BoardClient(port)
            client.load_input(image())
            assert client.retries == 1

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda byte: b"" if byte == b"7" else byte, "two digits"),
            (lambda byte: b"6" if byte == b"7" else byte, "CRC-32"),
        ],
    )
    def test_a_line_that_stays_bad_is_reported_after_four_attempts(
        self, firmware: Callable[[int], Path], damage: Callable[[bytes], bytes], reason: str
    ) -> None:
        def line(data: bytes) -> bytes:
            return b"".join(damage(data[index : index + 1]) for index in range(len(data)))

        with Board(firmware(1024), to_board=line) as board, open_port(board.url) as port:
            client = BoardClient(port, stall=STALL_S)
            with pytest.raises(DeviceError, match="1,024 bytes was not loaded whole in 4 attempts") as caught:
                client.load_input(bytes(range(0x60, 0x80)) * 32)
            assert reason in caught.value.message
            assert client.retries == 3

    def test_a_uart_without_a_fifo_is_fed_line_by_line_after_the_first_loss(
        self, firmware: Callable[[int], Path]
    ) -> None:
        for window, retries in ((32, 1), (1, 0)):
            to_board, to_host = without_fifo()
            with Board(firmware(1024), to_board=to_board, to_host=to_host) as board, open_port(board.url) as port:
                client = BoardClient(port, window=window, stall=STALL_S)
                client.load_input(image())
                assert client.layer_crcs(2) == expected(image())
                assert client.retries == retries

    def test_garbage_at_boot_is_dropped(self, firmware: Callable[[int], Path]) -> None:
        noise = b"\x00\xff\r\nbootloader v1\r\nm-"
        with Board(firmware(1024), to_host=at(0, insert(noise))) as board, open_port(board.url) as port:
            assert BoardClient(port).build() == BUILD_ID

    def test_a_board_that_misses_the_first_byte_is_knocked_at_again(self, firmware: Callable[[int], Path]) -> None:
        with Board(firmware(1024), to_board=at(0, drop)) as board, open_port(board.url) as port:
            assert BoardClient(port).build() == BUILD_ID

    def test_a_babbling_board_is_given_up(self, firmware: Callable[[int], Path]) -> None:
        with Board(firmware(1024)) as board, open_port(board.url) as port:
            client = BoardClient(Babbling(port))
            start = time.monotonic()
            with pytest.raises(DeviceError, match="does not stop"):
                client.sync(timeout=0.5)
            assert time.monotonic() - start < 2

    @pytest.mark.parametrize("change", [drop, flip(1), double, insert(b"?")])
    def test_an_answer_that_still_is_a_line_is_asked_for_again(
        self, firmware: Callable[[int], Path], change: Callable[[bytes], bytes]
    ) -> None:
        # A digit within the build id: the pattern fits after flip(1), only the board's own checksum tells.
        with Board(firmware(1024), to_host=at(SYNC + len("m-build-[0"), change)) as board, open_port(board.url) as port:
            client = BoardClient(port)
            assert client.build() == BUILD_ID
            assert client.retries == 1

    def test_an_answer_that_is_damaged_every_time_is_an_error(self, firmware: Callable[[int], Path]) -> None:
        seen = b""

        def corrupt(data: bytes) -> bytes:
            nonlocal seen
            out = b""
            for value in data:
                seen = (seen + bytes([value]))[-9:]
                out += bytes([value]) + (b"1" if seen == b"m-stack-[" else b"")
            return out

        with Board(firmware(1024), to_host=corrupt) as board, open_port(board.url) as port:
            client = BoardClient(port)
            with pytest.raises(LineError, match="damaged on the line 4 times"):
                client.stack()
            assert client.build() == BUILD_ID

    @pytest.mark.parametrize("change", [flip(0x80), insert(b"\n")])
    def test_a_damaged_answer_is_an_error_and_the_next_command_works(
        self, firmware: Callable[[int], Path], change: Callable[[bytes], bytes]
    ) -> None:
        with Board(firmware(1024), to_host=at(SYNC + 3, change)) as board, open_port(board.url) as port:
            client = BoardClient(port)
            with pytest.raises(LineError):
                client.build(timeout=0.5)
            assert client.build() == BUILD_ID

    def test_bytes_between_two_answers_are_an_error(self, firmware: Callable[[int], Path]) -> None:
        answer = SYNC + len(f"m-build-[{BUILD_ID}]\r\nm-ready\r\n")
        noise = at(answer - 1, lambda byte: byte + b"m-lap-us-7\r\n")
        with Board(firmware(1024), to_host=noise) as board, open_port(board.url) as port:
            client = BoardClient(port)
            with pytest.raises(LineError, match="unasked"):
                client.build()
                time.sleep(0.1)
                client.build()
            assert client.build() == BUILD_ID


class TestSilenceAndDeath:
    def test_a_board_that_never_answers(self, firmware: Callable[[int], Path]) -> None:
        with Board(firmware(1024), to_host=lambda data: b"") as board, open_port(board.url) as port:
            start = time.monotonic()
            with pytest.raises(SilentBoardError, match="does not answer"):
                BoardClient(port).sync(timeout=0.4)
            assert time.monotonic() - start < 1.5

    def test_errors_tell_the_time_that_was_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However much of it a busy computer has lost before it listens: here a tenth of a second at each look."""
        looks = itertools.count()
        clock = SimpleNamespace(monotonic=lambda: next(looks) / 10, sleep=time.sleep)
        monkeypatch.setattr("harness.link.client.time", clock)
        with pytest.raises(SilentBoardError, match="within 1 s"):
            BoardClient(SimpleNamespace(read=lambda timeout: b"", write=lambda data: None)).build(timeout=1.0)

    def test_a_board_that_falls_silent_while_loading_is_not_tried_again_and_again(
        self, firmware: Callable[[int], Path]
    ) -> None:
        with Board(firmware(1024), to_host=silent_after(b"Expecting")) as board, open_port(board.url) as port:
            client = BoardClient(port, stall=STALL_S)
            start = time.monotonic()
            with pytest.raises(SilentBoardError):
                client.load_input(image(), timeout=1)
            assert time.monotonic() - start < 2
            assert client.retries == 1

    def test_an_answer_that_stops_halfway_is_told_by_its_deadline(self, firmware: Callable[[int], Path]) -> None:
        with Board(firmware(1024), to_host=silent_after(b"m-tick")) as board, open_port(board.url) as port:
            client = BoardClient(port)
            client.load_input(image())
            start = time.monotonic()
            with pytest.raises(LineError, match="did not finish") as caught:
                client.ticks(2, timeout=0.4)
            assert time.monotonic() - start < 5
            assert "m-tick" in caught.value.message

    def test_while_waiting_a_fault_is_asked_for(self, firmware: Callable[[int], Path]) -> None:
        calls = []

        def check() -> None:
            calls.append(time.monotonic())
            if len(calls) == 3:
                raise DeviceError("HardFault in conv1")

        with Board(firmware(1024), to_host=silent_after(b"m-tick")) as board, open_port(board.url) as port:
            BoardClient(port).load_input(image())
            client = BoardClient(port, check=check)
            with pytest.raises(DeviceError, match="HardFault in conv1"):
                client.ticks(2, timeout=30)

    def test_a_fault_while_loading_is_not_tried_again(self, firmware: Callable[[int], Path]) -> None:
        faulted = threading.Event()

        def check() -> None:
            if faulted.is_set():
                raise DeviceError("HardFault in conv1")

        with Board(firmware(1024), to_host=then(b"Expecting", faulted.set)) as board, open_port(board.url) as port:
            client = BoardClient(port, check=check)
            with pytest.raises(DeviceError, match="HardFault in conv1"):
                client.load_input(image())
            assert client.retries == 0

    @pytest.mark.parametrize("tcp", [False, True])
    @pytest.mark.parametrize("marker", [b"m-tick-hz", b"Expecting"])
    def test_a_board_that_dies_in_mid_answer(self, firmware: Callable[[int], Path], marker: bytes, tcp: bool) -> None:
        dying: list[Board] = []
        line = then(marker, lambda: dying[0].kill())
        with Board(firmware(1024), to_host=line, tcp=tcp) as board, open_port(board.url) as port:
            dying.append(board)
            client = BoardClient(port)
            with pytest.raises(DeviceError, match="broke"):
                client.load_input(image())
                client.ticks()
            assert client.retries == 0

    def test_a_dead_emulators_own_reason_comes_first(self, board: Board) -> None:
        died = threading.Event()

        def check() -> None:
            if died.is_set():
                raise DeviceError("QEMU ended with code -6: Lockup")

        with open_port(board.url) as port:
            client = BoardClient(port, check=check)
            assert client.build() == BUILD_ID
            board.kill()
            threading.Timer(0.2, died.set).start()
            with pytest.raises(DeviceError, match="Lockup"):
                client.build()

    def test_after_an_interruption_the_next_command_is_in_step(self, board: Board) -> None:
        class Interrupting:
            def __init__(self, port: SerialPort) -> None:
                self.port, self.armed = port, False

            def read(self, timeout: float) -> bytes:
                data = self.port.read(timeout)
                if self.armed and data:
                    self.armed = False
                    raise KeyboardInterrupt
                return data

            def write(self, data: bytes) -> None:
                self.port.write(data)

        with open_port(board.url) as port:
            line = Interrupting(port)
            client = BoardClient(line)
            client.load_input(image())
            line.armed = True
            with pytest.raises(KeyboardInterrupt):
                client.ticks(100)
            assert client.layer_crcs(2) == expected(image())


class TestPort:
    def test_a_device_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match="there is no serial port") as caught:
            open_port(str(tmp_path / "ttyACM9"))
        assert "doctor" in str(caught.value.hint)

    def test_a_file_that_is_no_device(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DeviceError):
            open_port(str(tmp_path / "file"))

    def test_a_device_that_somebody_else_has_open(self, board: Board) -> None:
        with open_port(board.url), pytest.raises(DeviceError, match="in use"):
            open_port(board.url)
        open_port(board.url).close()

    @pytest.mark.parametrize("url", ["telnet://x", "socket://", "socket://127.0.0.1", "socket://127.0.0.1:99999", ""])
    def test_an_address_that_is_none(self, url: str) -> None:
        with pytest.raises(DeviceError):
            open_port(url, timeout=0)

    def test_where_nothing_listens_it_says_so_after_its_timeout(self) -> None:
        start = time.monotonic()
        with pytest.raises(DeviceError, match="nothing listens"):
            open_port(f"socket://127.0.0.1:{free_port()}", timeout=0.3)
        assert 0.3 <= time.monotonic() - start < 2

    def test_an_emulator_that_listens_late_is_waited_for(self) -> None:
        number = free_port()
        listener: list[socket.socket] = []
        threading.Timer(0.2, lambda: listener.append(socket.create_server(("127.0.0.1", number)))).start()
        open_port(f"socket://127.0.0.1:{number}").close()
        listener[0].close()

    def test_while_waiting_to_connect_a_dead_emulator_is_noticed(self) -> None:
        def check() -> None:
            raise DeviceError("QEMU ended with code 1")

        with pytest.raises(DeviceError, match="ended with code 1"):
            open_port(f"socket://127.0.0.1:{free_port()}", check=check)

    def test_closing_is_quick_and_can_be_repeated(self, firmware: Callable[[int], Path]) -> None:
        taken = []
        for _ in range(3):
            with Board(firmware(1024), tcp=True) as board:
                port = open_port(board.url)
                start = time.monotonic()
                port.close()
                port.close()
                taken.append(time.monotonic() - start)
                with pytest.raises(DeviceError):
                    port.read(0.1)
        assert min(taken) < 0.1  # the quickest: the computer is shared

    def test_a_line_that_takes_nothing_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.link.serial_port._WRITE_TIMEOUT_S", 0.2)
        master, slave = os.openpty()
        try:
            with open_port(os.ttyname(slave)) as port, pytest.raises(DeviceError, match="does not take"):
                port.write(b"x" * 1_000_000)
        finally:
            os.close(master)
            os.close(slave)


class Babbling:
    """A line on which there is always something."""

    def __init__(self, port: SerialPort) -> None:
        self.port = port

    def read(self, timeout: float) -> bytes:
        time.sleep(0.01)
        return self.port.read(0) + b"m-ready\r\n"

    def write(self, data: bytes) -> None:
        self.port.write(data)


def then(marker: bytes, happens: Callable[[], object]) -> Line:
    """A line that carries nothing more once `marker` was on it, which is when `happens` is called."""
    seen = b""

    def line(data: bytes) -> bytes:
        nonlocal seen
        before, seen = len(seen), seen + data
        end = seen.find(marker) + len(marker)
        if end < len(marker):
            return data
        if before < end:
            happens()
        return data[: max(0, end - before)]

    return line


def silent_after(marker: bytes) -> Line:
    return then(marker, lambda: None)


def without_fifo() -> tuple[Line, Line]:
    """A UART that loses what arrives while the board, after a `%`, is still writing its answer."""
    busy = threading.Event()

    def to_board(data: bytes) -> bytes:
        if busy.is_set():
            return b""
        taken, mark, _ = data.partition(b"%")
        if mark:
            busy.set()
        return taken + mark

    heard = b""

    def to_host(data: bytes) -> bytes:
        nonlocal heard
        heard += data
        if heard.endswith(b"m-ready\r\n"):
            heard = b""
            busy.clear()
        return data

    return to_board, to_host


class Rfc2217Server:
    """A remote serial port: pyserial's own RFC 2217 server in front of the board at `url`."""

    def __init__(self, url: str) -> None:
        self._serial = serial.serial_for_url(url, timeout=0.01)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(5)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        self._thread.start()
        return f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)
        self._listener.close()
        self._serial.close()

    def _serve(self) -> None:
        connection = self._listener.accept()[0]
        lock = threading.Lock()

        class Connection:
            def write(self, data: bytes) -> None:
                with lock:
                    connection.sendall(data)

        manager = serial.rfc2217.PortManager(self._serial, Connection())
        reader = threading.Thread(target=self._from_client, args=(connection, manager))
        reader.start()
        while not self._over.is_set():
            data = self._serial.read(self._serial.in_waiting or 1)
            if data:
                with lock:
                    connection.sendall(b"".join(manager.escape(data)))
        connection.shutdown(socket.SHUT_RDWR)
        reader.join(timeout=5)
        connection.close()

    def _from_client(self, connection: socket.socket, manager: serial.rfc2217.PortManager) -> None:
        while data := connection.recv(4096):
            self._serial.write(b"".join(manager.filter(data)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
