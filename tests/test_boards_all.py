"""Every board: its manifest, and a network on the engine that it has here, equal to the reference in every layer."""

from __future__ import annotations

import configparser
import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from harness import boards
from harness.assets import boards_dir, firmware_dir
from harness.cli.app import app
from harness.errors import DeviceError, DoesNotFit, InputError
from harness.pipeline import RunSpec, run
from harness.probe import targets
from harness.results.record import Footprint, Result

NO_QEMU = shutil.which("qemu-system-arm") is None
# One of each core: kernels are chosen by the core, and tests of kernels have the rest.
ONE_PER_CORE = ("microbit", "mps2-an385", "nucleo-l4r5", "nucleo-h743", "b-u585i", "mps3-an547")


def emulated() -> list[object]:
    """The boards that an emulator models; those for QEMU are skipped where it is missing."""
    known = [boards.load(name) for name in boards.names()]
    missing = pytest.mark.skipif(NO_QEMU, reason="qemu-system-arm is missing")
    return [
        pytest.param(board.id, marks=() if board.engines.simulator else missing)
        for board in known
        if board.engines.simulator or board.engines.qemu
    ]


FORMS = ("conv1=lanes-code", "conv2=lanes-table", "fc1=bytes-5.3", "fc2=bytes-5.3", "fc3=bytes-5.3")


@cache
def deep(name: str) -> Result:
    """LeNet-5, as small as it gets, on that board."""
    return run(RunSpec(model="lenet5", board=name, variant="deep", samples=2, repeat=2)).result


@cache
def same_code(name: str) -> Result:
    """The same in forms that do not depend on what the board's cycles are."""
    return run(RunSpec(model="lenet5", board=name, variant="deep", samples=2, repeat=2, forms=FORMS)).result


def fits(board: boards.Board, footprint: Footprint) -> bool:
    return footprint.flash.total <= board.region("flash").length and footprint.ram.total <= board.region("ram").length


@pytest.mark.parametrize("name", emulated())
def test_lenet5_is_bit_exact(name: str) -> None:
    result = deep(name)
    assert result.bit_exact is True
    assert result.accuracy.device == result.accuracy.host
    if result.latency.clock == "instructions":
        assert result.latency.min == result.latency.max, "the same instructions every time"
    assert result.footprint is not None and fits(boards.load(name), result.footprint)
    assert 0 < result.footprint.stack_used < result.footprint.ram.stack


@pytest.mark.parametrize("name", emulated())
def test_the_clock_tree_is_read_back_and_recorded(name: str) -> None:
    board, clock = boards.load(name), deep(name).fingerprint.clock
    assert clock is not None and clock.core_hz == board.clock_hz
    if board.clock is None:
        assert (clock.source, clock.caches, clock.registers) == ("fixed", (), {})
    else:
        assert (clock.source, clock.wait_states) == (board.clock.source, board.clock.wait_states)
        assert set(clock.caches) == set(board.clock.caches)
        assert clock.registers


def test_a_board_that_runs_otherwise_than_its_manifest_says_gives_no_figure(tmp_path: Path) -> None:
    manifest = json.loads((boards_dir() / "nucleo-h743.json").read_text())
    manifest["harness"]["clock"]["caches"].append("prefetch")  # which this chip does not have
    path = tmp_path / "other.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match="caches data, instruction, not data, instruction, prefetch"):
        run(RunSpec(model="lenet5", board=str(path), variant="deep", samples=1, repeat=1))


@pytest.mark.parametrize("name", ONE_PER_CORE)
def test_int8_is_bit_exact_on_every_core(name: str) -> None:
    if boards.load(name).engines.qemu and NO_QEMU:
        pytest.skip("qemu-system-arm is missing")
    result = run(RunSpec(model="lenet5", board=name, samples=2, repeat=1)).result
    assert result.bit_exact is True
    portable = {layer.form for layer in result.layers} <= {"rows", "plain"}
    assert portable == (boards.load(name).core not in boards.DSP_CORES)


@pytest.mark.skipif(NO_QEMU, reason="qemu-system-arm is missing")
def test_simulator_and_qemu_count_the_same() -> None:
    names = ("mps2-an386", "netduinoplus2", "nucleo-f446", "nucleo-l4r5")
    counts = {name: same_code(name).instructions for name in names}
    assert len(set(counts.values())) == 1, counts


def test_every_board_can_be_built_by_hand() -> None:
    project = configparser.ConfigParser()
    project.read(firmware_dir() / "platformio.ini")
    assert {name[4:] for name in project.sections() if name.startswith("env:")} == set(boards.names())


def test_every_port_has_a_board() -> None:
    ports = {path.stem for path in (firmware_dir() / "ports").glob("*.c")} - {"posix"}
    assert ports == {boards.load(name).port for name in boards.names()}


@pytest.mark.parametrize("name", boards.names())
def test_manifests_are_what_the_schema_says(name: str) -> None:
    text = (boards_dir() / f"{name}.json").read_text()
    jsonschema.validate(json.loads(text), boards.schema(), cls=jsonschema.Draft202012Validator)
    board = boards.load(name)
    assert board.argument == name == board.id


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(boards.schema())
    printed = CliRunner().invoke(app, ["boards", "--schema"])
    assert json.loads(printed.stdout) == boards.schema()


FLASH_512K = {"name": "FLASH", "kind": "flash", "origin": "0x08000000", "length": 524288}
RAM_128K = {"name": "RAM", "kind": "ram", "origin": "0x20000000", "length": 131072}


def changed(**keys: object) -> dict[str, Any]:
    """The manifest of a board, with other values at dotted keys; None removes one."""
    manifest: dict[str, Any] = json.loads((boards_dir() / "nucleo-f446.json").read_text())
    for key, value in keys.items():
        *path, last = key.split("__")
        place = manifest
        for part in path:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return manifest


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"harness__memory": None}, "lacks the key 'harness.memory'"),
        ({"build__cpu": "cortex-m5"}, "build.cpu: Input should be 'cortex-m0'"),
        ({"harness__uart__tx": "PZ9"}, "harness.uart.tx: String should match pattern"),
        ({"harness__prot": "x"}, "harness.prot: Extra inputs are not permitted"),
        ({"build__f_cpu": "fast"}, "build.f_cpu: String should match pattern"),
        ({"build__fpu": None}, "build: float_abi hard needs an fpu"),
        ({"upload__maximum_size": 1000}, "upload says 1,000 bytes of flash, harness.memory 524,288"),
        (
            {"harness__clock__wait_states": 4},
            "harness.clock sets 4 wait states (bus_divider 1), harness.timing says 5 of the core's cycles at 180 MHz",
        ),
        (
            {"harness__memory": [{**FLASH_512K, "sectors": [[4, 16384], [3, 131072]]}, RAM_128K]},
            "harness.memory.0: the sectors of FLASH have 458,752 bytes, not 524,288",
        ),
        (
            {"harness__memory": [FLASH_512K, {**RAM_128K, "sectors": [[1, 131072]]}]},
            "harness.memory.1: RAM is ram: only flash has sectors",
        ),
        ({"build__f_cpu": "216000000L"}, "flash cannot be read with the core at 216 MHz"),
    ],
)
def test_a_wrong_manifest_is_explained(keys: dict[str, object], says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed(**keys)))
    with pytest.raises(InputError) as caught:
        boards.load(str(path))
    assert str(caught.value).startswith("board manifest mine.json") and says in str(caught.value)


@pytest.mark.parametrize("name", boards.names())
def test_sectors_are_all_of_flash(name: str) -> None:
    board = boards.load(name)
    flash = board.region("flash")
    assert sum(count * size for count, size in targets.sectors(board, flash)) == flash.length


@pytest.mark.parametrize(
    ("name", "keys", "sectors"),
    [
        ("nucleo-f746", {}, ((4, 32768), (1, 131072), (3, 262144))),
        ("microbit", {}, ((256, 1024),)),
        ("mps2-an386", {}, ((1024, 4096),)),
        ("nucleo-f746", {"length": 6 * 1024}, ((3, 2048),)),
        ("nucleo-f746", {"length": 300 * 1024}, ((4, 32768), (1, 131072), (11, 4096))),
        ("nucleo-f746", {"length": 65536, "sectors": ((256, 256),)}, ((256, 256),)),
    ],
)
def test_flash_is_erased_in_sectors_of_its_own(
    name: str, keys: dict[str, Any], sectors: tuple[tuple[int, int], ...]
) -> None:
    board = boards.load(name)
    flash = board.region("flash").model_copy(update=keys)
    board = board.model_copy(update={"memory": (flash, board.region("ram"))})
    assert targets.sectors(board, flash) == sectors


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("my board.json", "{}", "letters, digits, - and _ only"),
        ("mine.json", "{", "mine.json cannot be read: it is not JSON (Expecting property name"),
        ("mine.json", "[]", "mine.json: manifest: Input should be a valid dictionary"),
        ("gone/mine.json", None, "cannot be read: no such file or directory"),
    ],
)
def test_what_is_no_manifest_is_refused(name: str, text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        boards.load(str(tmp_path / name))


def test_the_same_path_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed()))
    first = boards.load(str(path))
    path.write_text(json.dumps(changed(harness__stack_bytes=8192)))
    second = boards.load(str(path))
    assert (first.stack_bytes, second.stack_bytes) == (4096, 8192)
    assert first.manifest_sha256 != second.manifest_sha256
    assert second.argument == str(path)


def test_an_unknown_port_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed(harness__port="stm32f9")))
    with pytest.raises(InputError, match="unknown port 'stm32f9'") as caught:
        run(RunSpec(model="lenet5", board=str(path), samples=1, repeat=1))
    assert "stm32f4" in (caught.value.hint or "")


def test_the_manifest_of_the_guide_is_a_board_that_runs(tmp_path: Path) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "adding-a-board.md").read_text()
    shown = re.search(r'```json title="(?P<name>[^"]+)"\n(?P<text>.*?)```', guide, re.DOTALL)
    assert shown is not None
    path = tmp_path / "a folder" / shown["name"]
    path.parent.mkdir()
    path.write_text(shown["text"])
    result = same_code(str(path))
    assert (result.board, result.engine, result.bit_exact) == ("my-board", "simulator", True)
    assert result.instructions == same_code("nucleo-f446").instructions


def test_what_does_not_fit_a_small_board_is_said(tmp_path: Path) -> None:
    manifest = json.loads((boards_dir() / "microbit.json").read_text())
    manifest["harness"]["stack_bytes"] = 16_000
    path = tmp_path / "full.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DoesNotFit, match=r"does not fit full: RAM \(16,384 bytes\) overflows by [\d,]+ bytes"):
        run(RunSpec(model="lenet5", board=str(path), variant="deep", samples=1, repeat=1))
