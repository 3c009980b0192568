"""Answers are taken whole or not at all: exact lines, exact order, exact numbers of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.link import answers
from harness.link.answers import Clock, Inference, LayerCrcs, LayerTicks, LineError, Lines, Profile, Stack, Ticks

INFERENCE = [
    "m-warmup-start-1",
    "m-warmup-done",
    "m-infer-start-2",
    "m-lap-us-100",
    "m-lap-us-350",
    "m-infer-done",
    "m-results-[0.250,-1.500,12.000]",
]
CRCS = ["m-layer-crc-[0,00c0ffee]", "m-layer-crc-[1,deadbeef]", "m-class-[2]", "m-output-[00ff80]"]

# Each parser with its arguments, an answer, and what that means.
ANSWERS: list[tuple[Callable[..., Any], tuple[Any, ...], list[str], Any]] = [
    (answers.parse_name, (), ["m-name-dut-[nucleo-f746]"], "nucleo-f746"),
    (
        answers.parse_profile,
        (),
        ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[lenet5]"],
        Profile("ULPMark for tinyML Firmware V0.0.1", "lenet5"),
    ),
    (answers.parse_build, (), ["m-build-[0123456789abcdef]"], "0123456789abcdef"),
    (answers.parse_load, (1024,), ["m-[Expecting 1024 bytes]"], None),
    (answers.parse_crc, (), ["m-crc-[00c0ffee]"], "00c0ffee"),
    (answers.parse_inference, (2, 1, 3), INFERENCE, Inference(2, 1, 100, 350, (0.25, -1.5, 12.0))),
    (
        answers.parse_ticks,
        (2,),
        ["m-tick-hz-[25000000]", "m-empty-[9]", "m-ticks-[18446744073709551615]", "m-ticks-[0]"],
        Ticks((2**64 - 1, 0), 9, 25_000_000),
    ),
    (
        answers.parse_layers,
        (2,),
        ["m-layer-empty-[30]", "m-layer-[0,5]", "m-layer-[1,6]"],
        LayerTicks((5, 6), 30),
    ),
    (answers.parse_layer_crcs, (2,), CRCS, LayerCrcs(("00c0ffee", "deadbeef"), 2, b"\x00\xff\x80")),
    (answers.parse_stack, (), ["m-stack-[512,4096]"], Stack(512, 4096)),
    (
        answers.parse_clock,
        (),
        ["m-clock-[hse-bypass,216000000,7,1]", "m-caches-[instruction,data]", "m-register-[40023808,0000940a]"],
        Clock("hse-bypass", 216_000_000, 7, ("instruction", "data"), ((0x4002_3808, 0x940A),)),
    ),
    (
        answers.parse_clock,
        (),
        ["m-clock-[fixed,25000000,0,0]", "m-caches-[]"],
        Clock("fixed", 25_000_000, 0, (), ()),
    ),
]

parsers = pytest.mark.parametrize(("parse", "arguments", "lines", "meaning"), ANSWERS)


@parsers
def test_a_whole_answer_is_understood(
    parse: Callable[..., Any], arguments: tuple[Any, ...], lines: list[str], meaning: Any
) -> None:
    assert parse(lines, *arguments) == meaning


@parsers
def test_a_line_lost_doubled_swapped_or_added_is_noticed(
    parse: Callable[..., Any], arguments: tuple[Any, ...], lines: list[str], meaning: Any
) -> None:
    damaged = [lines[:index] + lines[index + 1 :] for index in range(len(lines))]
    damaged += [lines[: index + 1] + lines[index:] for index in range(len(lines))]
    damaged += [[*lines[:index], "m-lap-us-1", *lines[index:]] for index in range(len(lines) + 1)]
    damaged += [[], [*lines, ""]]
    for answer in damaged:
        if answer == lines:
            continue
        with pytest.raises(LineError):
            parse(answer, *arguments)


@parsers
def test_no_byte_that_is_not_part_of_a_value_can_change(
    parse: Callable[..., Any], arguments: tuple[Any, ...], lines: list[str], meaning: Any
) -> None:
    """Every change of one character outside of free text and figures is an error."""
    for number, line in enumerate(lines):
        free = line.find("[") if line.startswith(("m-name", "m-profile", "m-model")) else len(line)
        for index in range(free):
            if line[index] in "-0123456789abcdef" and index > line.find("-[") > 0:
                continue
            for changed in ("", line[index] * 2, chr(ord(line[index]) ^ 1), "\x00"):
                answer = [*lines]
                answer[number] = line[:index] + changed + line[index + 1 :]
                if answer[number].startswith("m-lap-us-") and answer[number][9:].isdigit():
                    continue
                with pytest.raises(LineError):
                    parse(answer, *arguments)


def test_a_checksum_or_output_that_lost_or_gained_a_digit_is_noticed() -> None:
    for number in (0, 1, 3):
        digits = range(CRCS[number].index("]") - 8 if number < 3 else CRCS[3].index("[") + 1, len(CRCS[number]) - 1)
        for index in digits:
            for changed in ("", CRCS[number][index] * 2):
                answer = [*CRCS]
                answer[number] = CRCS[number][:index] + changed + CRCS[number][index + 1 :]
                with pytest.raises(LineError):
                    answers.parse_layer_crcs(answer)


@pytest.mark.parametrize(
    ("parse", "lines"),
    [
        (lambda lines: answers.parse_ticks(lines, 1), ["m-tick-hz-[0]", "m-empty-[1]", "m-ticks-[1]"]),
        (lambda lines: answers.parse_ticks(lines, 1), ["m-tick-hz-[1]", "m-empty-[01]", "m-ticks-[1]"]),
        (lambda lines: answers.parse_ticks(lines, 1), ["m-tick-hz-[1]", "m-empty-[1]", f"m-ticks-[{2**64}]"]),
        (lambda lines: answers.parse_inference(lines, 2, 1, 4), INFERENCE),
        (lambda lines: answers.parse_inference(lines, 2, 2), INFERENCE),
        (
            lambda lines: answers.parse_inference(lines, 2, 1),
            [line.replace("m-lap-us-350", "m-lap-us-99") for line in INFERENCE],
        ),
        (
            lambda lines: answers.parse_inference(lines, 2, 1),
            [line.replace("0.250", "nan") for line in INFERENCE],
        ),
        (answers.parse_layers, ["m-layer-empty-[3]"]),
        (lambda lines: answers.parse_layers(lines, 3), ["m-layer-empty-[3]", "m-layer-[0,1]", "m-layer-[1,1]"]),
        (lambda lines: answers.parse_layer_crcs(lines, 3), CRCS),
        (answers.parse_stack, ["m-stack-[4097,4096]"]),
        (answers.parse_stack, ["m-stack-[٤,٥]"]),
        (answers.parse_build, ["m-build-[0123456789ABCDEF]"]),
    ],
)
def test_values_that_cannot_be_are_refused(parse: Callable[[list[str]], Any], lines: list[str]) -> None:
    with pytest.raises(LineError):
        parse(lines)


def test_us_and_predicted_follow_from_the_answer() -> None:
    inference = answers.parse_inference(INFERENCE, 2, 1)
    assert inference.us == 250
    assert inference.predicted == 2
    assert Inference(1, 0, 0, 1, (3.0, 3.0, 1.0)).predicted == 0


printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)


@given(lines=st.lists(printable, max_size=8), data=st.data())
def test_lines_come_out_the_same_however_they_arrive(lines: list[str], data: st.DataObject) -> None:
    stream = "".join(f"{line}\r\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    cutter, got = Lines(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += cutter.feed(stream[start:end])
    assert got == lines
    assert cutter.partial == b""


@given(st.binary(max_size=200))
def test_bytes_are_either_lines_of_ascii_or_an_error(data: bytes) -> None:
    cutter = Lines()
    try:
        lines = cutter.feed(data)
    except LineError:
        return
    assert "".join(f"{line}\r\n" for line in lines).encode() + cutter.partial == data
    assert all(line.isascii() and (line.isprintable() or not line) for line in lines)


def test_an_endless_line_is_not_collected_for_ever() -> None:
    cutter = Lines()
    with pytest.raises(LineError, match="without a line end"):
        for _ in range(100):
            cutter.feed(b"x" * 10_000)


@given(st.lists(st.one_of(printable, st.sampled_from([*INFERENCE, *CRCS])), max_size=6))
def test_no_answer_makes_a_parser_fail_otherwise(lines: list[str]) -> None:
    for parse, arguments, _, _ in ANSWERS:
        try:
            parse(lines, *arguments)
        except LineError as error:
            assert str(error)
