"""One measurement, several engines: the deep LeNet-5 returns the same classes and checksums, and costs as much.

The same ELF on the simulator and, where it is installed, on Renode; the same sources on QEMU's Cortex-M7.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import renode_stand_in

from harness.emulators import renode
from harness.pipeline import RunSpec, run
from harness.results.record import Result

pytestmark = pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is missing")

SAMPLES = 5
# What two engines may differ by once the empty region is subtracted, in instructions.
TOLERANCE = 16


# Forms are chosen for a board; here all have the same code.
FORMS = ("conv1=lanes-code", "conv2=lanes-table", "fc1=bytes-5.3", "fc2=bytes-5.3", "fc3=bytes-5.3")


def on(board: str, engine: str) -> Result:
    outcome = run(RunSpec("lenet5", board, "deep", engine=engine, samples=SAMPLES, repeat=2, forms=FORMS))
    assert outcome.verdict is None
    return outcome.result


@pytest.fixture(scope="module")
def simulated() -> Result:
    return on("nucleo-f746", "simulator")


def agrees(result: Result, expected: Result) -> None:
    assert result.bit_exact is True
    assert result.accuracy is not None and expected.accuracy is not None
    assert result.accuracy.classes_sha256 == expected.accuracy.classes_sha256
    assert [layer.crc_device for layer in result.layers] == [layer.crc_device for layer in expected.layers]
    assert result.instructions is not None and expected.instructions is not None
    assert abs(result.instructions - expected.instructions) <= TOLERANCE
    assert result.fingerprint.sources_sha256 == expected.fingerprint.sources_sha256


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
def test_qemu_and_the_simulator_agree(simulated: Result) -> None:
    agrees(on("mps2-an500", "qemu"), simulated)


@pytest.mark.skipif(renode.find() is None, reason="renode is not installed: harness doctor --install renode")
def test_renode_and_the_simulator_agree(simulated: Result) -> None:
    result = on("nucleo-f746", "renode")
    assert result.fingerprint.elf_sha256 == simulated.fingerprint.elf_sha256
    assert result.fingerprint.emulator == "renode"
    agrees(result, simulated)


def test_the_whole_path_through_engine_renode(
    simulated: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the stand-in of fake_renode.py, whose machine is the simulator's: shows the path, not Renode's counts."""
    monkeypatch.setenv(renode.ENVIRONMENT, str(renode_stand_in.program(tmp_path)))
    result = on("nucleo-f746", "renode")
    assert result.fingerprint.elf_sha256 == simulated.fingerprint.elf_sha256
    assert result.fingerprint.emulator == "renode"
    assert "stand-in" in (result.fingerprint.emulator_version or "")
    assert result.latency.clock == "instructions"
    agrees(result, simulated)
