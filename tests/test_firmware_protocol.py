"""The serial protocol, spoken with the firmware's own protocol.c as a host process on a pty, under sanitizers."""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from firmware_images import INPUT, NETWORK, Line, compile_host, on_pty, reference
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_host(tmp_path_factory.mktemp("posix") / "firmware")


@pytest.fixture
def line(program: Path) -> Iterator[Line]:
    with on_pty(program) as (line, _):
        yield line


@pytest.fixture(scope="module")
def long_lived(program: Path) -> Iterator[Line]:
    with on_pty(program) as (line, _):
        yield line


def test_says_nothing_before_the_host_speaks(line: Line) -> None:
    assert line.read(0.2) == b""
    assert line.ask("name") == ["m-name-dut-[posix]"]


def test_tells_who_it_is(line: Line) -> None:
    assert line.ask("profile") == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[tiny]"]
    assert line.ask("build") == ["m-build-[0123456789abcdef]"]
    assert line.ask("stack") == ["m-stack-[0,0]"]
    assert line.ask("clock") == ["m-clock-[fixed,0,0,0]", "m-caches-[]"]
    assert len(line.ask("help")) == 1


def test_answer_lines_end_in_crlf(line: Line) -> None:
    line.send(b"name%")
    received = b""
    while not received.endswith(b"m-ready\r\n"):
        received += line.read(5)
    assert received == b"m-name-dut-[posix]\r\nm-ready\r\n"


def test_loads_an_input_in_the_runners_lines(line: Line) -> None:
    line.load(INPUT)
    assert line.ask("db crc") == [f"m-crc-[{zlib.crc32(INPUT):08x}]"]
    printed = line.ask("db print")
    assert all(re.fullmatch(r"m-buffer-\[([0-9a-f]{2}-){7}[0-9a-f]{2}\]", text) for text in printed)
    assert bytes.fromhex("".join(text[10:-1].replace("-", "") for text in printed)) == INPUT


def test_a_damaged_line_changes_nothing_and_can_be_sent_again(line: Line) -> None:
    line.ask("db load 16")
    assert line.ask("db 0011223344556677") == []
    for damaged, reason in (
        ("db 88g9", "e-[not a hexadecimal digit]"),
        ("db 889", "e-[bytes have two digits each]"),
        ("db", "e-[bytes have two digits each]"),
        ("db 8899aabbccddeeff00", "e-[more bytes than db load announced]"),
    ):
        assert line.ask(damaged) == [reason]
    assert line.ask("db 8899AABBCCDDEEFF") == ["m-load-done"]
    assert line.ask("db crc") == [f"m-crc-[{zlib.crc32(bytes(range(0, 256, 17))):08x}]"]
    assert line.ask("db 00") == ["e-[more bytes than db load announced]"]


def test_an_unfinished_load_is_no_input(line: Line) -> None:
    line.load(INPUT)
    line.ask("db load 16")
    line.ask("db 00112233")
    for command in ("infer 1 0", "ticks", "layers", "crc", "db crc", "db print"):
        assert line.ask(command) == ["e-[no input loaded]"]


@pytest.mark.parametrize("size", ["", "0", "15", "17", "x", "-16", "16x", "99999999999999999999"])
def test_refuses_another_number_of_bytes(line: Line, size: str) -> None:
    assert line.ask(f"db load {size}") == ["e-[input bytes must be 16]"]


def test_infers_in_mlperfs_words(line: Line) -> None:
    line.load(INPUT)
    answers = line.ask("infer 3 2")
    milli = [output * 500 for output in reference(INPUT).outputs]
    results = ",".join(f"{value / 1000:.3f}" for value in milli)
    laps = [int(answer.removeprefix("m-lap-us-")) for answer in answers if answer.startswith("m-lap-us-")]
    assert [answer for answer in answers if not answer.startswith("m-lap-us-")] == [
        "m-warmup-start-2",
        "m-warmup-done",
        "m-infer-start-3",
        "m-infer-done",
        f"m-results-[{results}]",
    ]
    assert answers.index("m-infer-start-3") == 2 and answers[3].startswith("m-lap") and answers[4].startswith("m-lap")
    assert laps[0] <= laps[1]
    assert any(value < 0 for value in milli), "a negative score must be among the results"
    assert line.ask("results") == [f"m-results-[{results}]"]
    assert line.ask("infer")[0] == "m-warmup-start-10"


def test_results_need_an_inference(line: Line) -> None:
    line.load(INPUT)
    assert line.ask("results") == ["e-[no inference yet]"]


@pytest.mark.parametrize("counts", ["0", "x", "-1", "1.5", "4294967297"])
def test_refuses_counts_that_are_none(long_lived: Line, counts: str) -> None:
    assert long_lived.ask(f"ticks {counts}") == ["e-[usage: ticks RUNS]"]
    assert long_lived.ask(f"infer {counts}") == ["e-[usage: infer RUNS WARMUPS]"]
    if counts != "0":
        assert long_lived.ask(f"infer 1 {counts}") == ["e-[usage: infer RUNS WARMUPS]"]


def test_checks_every_layer_though_the_network_consumes_its_input(line: Line) -> None:
    expected = reference(INPUT)
    line.load(INPUT)
    packed = b"".join(value.to_bytes(4, "little", signed=True) for value in expected.outputs)
    for _ in range(3):
        assert line.ask("crc") == [
            f"m-layer-crc-[0,{expected.crcs[0]:08x}]",
            f"m-layer-crc-[1,{expected.crcs[1]:08x}]",
            f"m-class-[{expected.outputs.index(max(expected.outputs))}]",
            f"m-output-[{packed.hex()}]",
        ]


@given(data=st.binary(min_size=16, max_size=16))
@settings(max_examples=60)
def test_agrees_with_the_reference(long_lived: Line, data: bytes) -> None:
    long_lived.load(data)
    answers = long_lived.ask("crc")
    assert answers[:2] == [f"m-layer-crc-[{index},{crc:08x}]" for index, crc in enumerate(reference(data).crcs)]


def test_times_every_inference_and_every_layer(line: Line) -> None:
    line.load(INPUT)
    hz, empty, *ticks = line.ask("ticks 5")
    assert hz == "m-tick-hz-[1000000000]"
    assert re.fullmatch(r"m-empty-\[\d+\]", empty)
    assert len(ticks) == 5 and all(re.fullmatch(r"m-ticks-\[\d+\]", answer) for answer in ticks)
    empty, *layers = line.ask("layers")
    assert re.fullmatch(r"m-layer-empty-\[\d+\]", empty)
    assert [re.fullmatch(r"m-layer-\[(\d+),\d+\]", answer)[1] for answer in layers] == ["0", "1"]


def test_a_line_too_long_is_refused_and_forgotten(line: Line) -> None:
    assert line.ask("x" * 95) == ["e-[unknown command]"]
    assert line.ask("x" * 96) == ["e-[line too long]"]
    assert line.ask("x" * 5000) == ["e-[line too long]"]
    assert line.ask("name") == ["m-name-dut-[posix]"]


@pytest.mark.parametrize("command", ["", " ", "nam", "names", "NAME", "db\tcrc", "\x80"])
def test_unknown_commands(line: Line, command: str) -> None:
    assert line.ask(command) == ["e-[unknown command]"]


def test_line_ends_and_repeated_spaces_mean_nothing(line: Line) -> None:
    assert line.ask("\r\n  name\r\n") == ["m-name-dut-[posix]"]
    assert line.ask(" db   load   16 ") == ["m-[Expecting 16 bytes]"]


_NAMES = [
    "name",
    "profile",
    "build",
    "db",
    "infer",
    "ticks",
    "layers",
    "crc",
    "stack",
    "results",
    "timestamp",
    "help",
    "clock",
]
_WORDS = st.sampled_from([*_NAMES, "load", "print", "0", "1", "16", "ff", "0g", "zz", "-1", "00"])
# A count of more than two digits would only be slow.
_COMMANDS = st.one_of(
    st.lists(_WORDS, max_size=4).map(" ".join), st.text(st.characters(max_codepoint=255), max_size=120)
)


@given(commands=st.lists(_COMMANDS, min_size=1, max_size=8))
@settings(max_examples=80)
def test_whatever_comes_each_command_is_answered_once(long_lived: Line, commands: list[str]) -> None:
    for command in commands:
        text = command.replace("%", "").encode("latin-1")
        long_lived.send(re.sub(rb"\d{3,}", b"12", text) + b"%")
        answers = long_lived.answers()
        assert all(re.match(r"(m|e)-", answer) for answer in answers)
        assert "m-ready" not in answers
    assert long_lived.ask("name") == ["m-name-dut-[posix]"]


def test_ends_with_its_input(program: Path) -> None:
    ended = subprocess.run([str(program)], input=b"name%", capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"m-name-dut-[posix]\r\nm-ready\r\n")


def test_a_line_that_hangs_up_ends_it(program: Path) -> None:
    with on_pty(program) as (line, process):
        assert line.ask("name")
        line.hang_up()
        assert process.wait(timeout=10) == 0


def test_numbers_are_right_to_64_bits(tmp_path: Path) -> None:
    checked = compile_host(tmp_path / "arithmetic", source=NETWORK / "arithmetic.c")
    assert subprocess.run([str(checked)], timeout=60, check=False).returncode == 0
