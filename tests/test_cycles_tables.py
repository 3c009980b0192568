"""The cycle model, row by row: small pieces of code whose cycles follow from the cores' manuals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from harness import boards
from harness.emulators.simulator.cycles import cores, parameters
from harness.emulators.simulator.cycles.instructions import Flow, Instruction, Kind, decode
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.cycles.parameters import ParameterSet, load, shipped
from harness.errors import InputError

pytestmark = pytest.mark.skipif(shutil.which("arm-none-eabi-as") is None, reason="arm-none-eabi-as is not installed")

FLASH = 0x0800_0000


@cache
def assembled(source: str) -> tuple[Instruction, ...]:
    """The instructions of `source`, one after another from an aligned address."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = f".syntax unified\n.thumb\n.cpu cortex-m7\n.fpu fpv5-sp-d16\n{source.replace(';', chr(10))}\n"
        (folder / "code.s").write_text(text)
        subprocess.run(
            ["arm-none-eabi-as", "-mthumb", str(folder / "code.s"), "-o", str(folder / "code.o")],
            check=True,
            timeout=60,
        )
        binary = folder / "code.bin"
        copy = ["arm-none-eabi-objcopy", "-O", "binary", str(folder / "code.o"), str(binary)]
        subprocess.run(copy, check=True, timeout=60)
        return decode(binary.read_bytes(), FLASH)


def model(core: str) -> CycleModel:
    """The core with its parameters as the manual gives them, behind memory that never waits."""
    board = boards.load({"cortex-m4": "nucleo-l4r5", "cortex-m7": "nucleo-f746", "cortex-m33": "b-u585i"}[core])
    table = cores.table(core)
    free = ParameterSet(core, "manual", table.defaults(), None)
    return CycleModel.of(board.model_copy(update={"timing": None}), parameters=free)


def cycles(core: str, source: str) -> int:
    return model(core).edge((), assembled(source)).cycles


# DDI 0439B, tables 3-1 and 7-1.
M4 = {
    "dependent additions": ("adds r0, r0, #1; adds r0, r0, #1; adds r0, r0, #1", 3),
    "a load": ("ldr r0, [r1]", 2),
    "loads in a row pipeline": ("ldr r0, [r1]; ldr r2, [r1, #4]; ldr r3, [r1, #8]", 4),
    "a load whose address was just loaded does not": ("ldr r0, [r1]; ldr r2, [r0]", 4),
    "a load whose base was written back does": ("ldr r0, [r1], #4; ldr r2, [r1]", 3),
    "its use waits no longer": ("ldr r0, [r1]; adds r0, r0, #1", 3),
    "a store": ("str r0, [r1]", 1),
    "LDM is 1 + N": ("ldm r0!, {r1, r2, r3, r4}", 5),
    "PUSH is 1 + N": ("push {r4, r5, lr}", 4),
    "LDRD is 1 + 2": ("ldrd r0, r1, [r2]", 3),
    "MUL and MLA": ("muls r0, r1, r0; mla r2, r0, r1, r2", 2),
    "a chain of SMLAD": ("smlad r0, r1, r2, r0; smlad r0, r3, r4, r0", 2),
    "SMLAL": ("smlal r0, r1, r2, r3", 1),
    "DSP": ("uxtb16 r0, r1; sadd16 r0, r0, r2; usat r0, #8, r0", 3),
    "SDIV": ("sdiv r0, r1, r2", 7),
    "IT folds behind 16 bits": ("cmp r0, #0; it eq; moveq r1, #1", 2),
    "and not behind 32": ("cmp.w r0, #0; it eq; moveq r1, #1", 3),
    "VADD waits for VADD": ("vadd.f32 s0, s1, s2; vadd.f32 s3, s0, s2", 3),
    "independent VADD": ("vadd.f32 s0, s1, s2; vadd.f32 s3, s4, s2", 2),
    "a chain of VFMA": ("vfma.f32 s0, s1, s2; vfma.f32 s0, s3, s4", 6),
    "VMLA and the use of its sum": ("vmla.f32 s0, s1, s2; vmul.f32 s3, s0, s4", 5),
    "VDIV": ("vdiv.f32 s0, s1, s2", 14),
    "VLDR": ("vldr s0, [r0]", 2),
    "VLDM is 1 + N": ("vldmia r0!, {s0-s3}", 5),
    "VLDR of two words": ("vldr d0, [r0]", 3),
    "NOP": ("nop; nop", 2),
}  # fmt: skip

# DDI 0489 and ARMScheduleM7.td.
M7 = {
    "independent additions issue in pairs": ("adds r0, r0, #1; adds r1, r1, #1; adds r2, r2, #1; adds r3, r3, #1", 2),
    "dependent ones do not": ("adds r0, r0, #1; adds r0, r0, #1; adds r0, r0, #1", 3),
    "two loads": ("ldr r0, [r1]; ldr r2, [r1, #4]", 1),
    "three loads": ("ldr r0, [r1]; ldr r2, [r1, #4]; ldr r3, [r1, #8]", 2),
    "two stores": ("str r0, [r1]; str r2, [r1, #4]", 2),
    "a store of what was just computed": ("adds r0, r0, #1; str r0, [r1]", 1),
    "load and use": ("ldr r0, [r1]; adds r0, r0, #1", 2),
    "a byte is a cycle later": ("ldrb r0, [r1]; adds r0, r0, #1", 3),
    "load and use as an address": ("ldr r0, [r1]; ldr r2, [r0]", 3),
    "bases that are written back are forwarded": ("ldr r0, [r1], #4; ldr r2, [r1], #4", 1),
    "one multiplier": ("smlad r0, r1, r2, r0; smlad r3, r1, r2, r3", 2),
    "accumulators are forwarded": ("smlad r0, r1, r2, r0; smlad r0, r3, r4, r0", 2),
    "products are not": ("mul r0, r1, r2; adds r0, r0, #1", 3),
    "multiply beside a load": ("ldr r5, [r6]; smlad r0, r1, r2, r0", 1),
    "SIMD only in slot 0": ("uxtb16 r0, r1; uxtb16 r2, r3", 2),
    "SIMD, then an addition": ("uxtb16 r0, r1; adds r2, r2, #1", 1),
    "one shifter": ("lsls r0, r0, #1; lsls r1, r1, #1", 2),
    "shifted operands are early": ("adds r0, r0, #1; add r2, r3, r0, lsl #2", 3),
    "LDM moves two words a cycle, alone": ("ldm r0!, {r1, r2, r3, r4}; adds r5, r5, #1", 3),
    "IT takes a slot": ("cmp r0, #0; it eq; moveq r1, #1", 2),
    "SDIV issues alone": ("sdiv r0, r1, r2; adds r3, r3, #1", 8),
    "a chain of VFMA": ("vfma.f32 s0, s1, s2; vfma.f32 s0, s3, s4; vfma.f32 s0, s5, s6", 3),
    "VADD waits 3 for VADD": ("vadd.f32 s0, s1, s2; vadd.f32 s3, s0, s2", 4),
    "VMUL beside an addition": ("vmul.f32 s0, s1, s2; adds r0, r0, #1", 1),
    "VLDM moves two words a cycle": ("vldmia r0!, {s0-s3}", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", M4)
def test_cortex_m4(name: str) -> None:
    source, expected = M4[name]
    assert cycles("cortex-m4", source) == expected


@pytest.mark.parametrize("name", M7)
def test_cortex_m7(name: str) -> None:
    source, expected = M7[name]
    assert cycles("cortex-m7", source) == expected


def test_a_taken_branch_refills_the_pipeline_of_a_cortex_m4() -> None:
    loop = assembled("adds r0, r0, #1; b.n .-2")
    made = model("cortex-m4")
    assert [made.edge((), loop).branch, made.edge(loop, loop).branch] == [0, 2]
    conditional = assembled("subs r0, r0, #1; bne.n .-2")
    behind = dataclasses.replace(loop[0], address=conditional[-1].end)
    assert made.edge(conditional, (behind,)).branch == 0  # not taken
    assert not made.edge(conditional, conditional).conditional  # a Cortex-M4 predicts nothing


def test_a_cortex_m7_predicts_conditional_branches_and_not_targets_in_registers() -> None:
    made = model("cortex-m7")
    conditional, indirect = assembled("subs r0, r0, #1; bne.n .-2"), assembled("bx lr")
    edge = made.edge(conditional, conditional)
    assert (edge.conditional, edge.branch, edge.mispredicted) == (True, 0, 7)
    assert made.edge(indirect, (dataclasses.replace(conditional[0], address=FLASH + 64),)).branch == 7


@pytest.mark.parametrize("core", cores.TABLES)
def test_every_row_names_the_table_that_it_is_from(core: str) -> None:
    table = cores.table(core)
    assert all(row.source for row in table.rows.values())
    assert all(parameter.low <= parameter.default <= parameter.high for parameter in table.parameters)
    shipped(table).check(table)


def test_decoding_knows_registers_that_capstone_leaves_out() -> None:
    saturate, store, pack = assembled("usat r0, #8, r1; vstmia r2!, {s0-s1}; pkhbt r3, r4, r5, lsl #16")
    assert len(saturate.reads) == 1 and store.words == 2 and len(store.reads) == 3
    assert len(pack.reads) == 2 and pack.early < pack.reads
    assert [one.flow for one in assembled("beq.n .; bl .; bx lr; pop {r4, pc}; tbb [pc, r0]; ldr pc, [r0]")] == [
        Flow.CONDITIONAL, Flow.DIRECT, Flow.INDIRECT, Flow.INDIRECT, Flow.INDIRECT, Flow.INDIRECT,
    ]  # fmt: skip


def test_what_cannot_be_decoded_or_has_no_row_is_known_to_have_no_cost() -> None:
    (unknown,) = decode(bytes.fromhex("00de"), FLASH)[:1]  # UDF is known; this is not:
    assert unknown.kind is not Kind.UNKNOWN
    (unknown,) = decode(bytes.fromhex("e0b6"), FLASH)
    assert unknown.kind is Kind.UNKNOWN and unknown.size == 2
    assert not model("cortex-m4").knows(unknown)
    float_code = assembled("vadd.f32 s0, s1, s2")[0]
    m3 = CycleModel.of(boards.load("mps2-an385"))
    assert model("cortex-m4").knows(float_code) and not m3.knows(float_code)


def test_a_manifest_without_memory_timing_is_uncalibrated_and_says_so() -> None:
    made = CycleModel.of(boards.load("mps2-an386"))
    assert made.error_band is None and made.version.endswith("uncalibrated")
    assert "no memory timing" in made.notes[0]


def test_cores_without_measurements_are_uncalibrated() -> None:
    made = CycleModel.of(boards.load("b-u585i"))
    assert made.error_band is None and "uncalibrated" in made.notes[0]


def test_another_clock_changes_wait_states() -> None:
    board = boards.load("nucleo-f746")
    fast, slow = CycleModel.of(board), CycleModel.of(board, clock_hz=25_000_000)
    (place, *_), (slower, *_) = fast.memory.fetch.places, slow.memory.fetch.places  # type: ignore[union-attr]
    assert place.miss - slower.miss == 7
    with pytest.raises(InputError, match="cannot be read with the core at 300 MHz"):
        CycleModel.of(board, clock_hz=300_000_000)


def test_parameter_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    of_m7 = shipped(cores.table("cortex-m7"))
    path.write_text(of_m7.to_json())
    assert load(path) == of_m7
    with pytest.raises(InputError, match="cortex-m7, but the board has a cortex-m4"):
        CycleModel.of(boards.load("nucleo-l4r5"), parameters_file=path)
    path.write_text(dataclasses.replace(of_m7, values={**of_m7.values, "mispredict": 99.0}).to_json())
    with pytest.raises(InputError, match="mispredict is 99"):
        CycleModel.of(boards.load("nucleo-f746"), parameters_file=path)
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no cycle parameters"):
        load(path)


ANCHORS = Path(parameters.__file__).parent / "fitted" / "anchors.json"


def test_published_figures_of_silicon_are_met() -> None:
    """What benchmarks/cycle_anchors.py and the sources named there gave; the model itself knows none of it."""
    rows = json.loads(ANCHORS.read_text())["rows"]
    errors = {row["id"]: abs(row["predicted"]["error"]) for row in rows if row["predicted"]}
    for row in rows:
        if row["predicted"]:
            ratio = row["predicted"]["cycles"] / row["published"]["cycles"]
            assert row["predicted"]["error"] == pytest.approx(ratio - 1, abs=1e-4)
        assert row["published"]["source"]
    known = [row for row in rows if row["id"] in errors]
    int8 = [row for row in known if row["kind"] == "int8" and row["core"] in ("cortex-m4", "cortex-m7")]
    new = [errors[row["id"]] for row in int8 if not row["fitted"]]
    assert len(int8) >= 18 and len(new) >= 9
    assert statistics.median(errors[row["id"]] for row in int8) <= 0.02
    assert statistics.median(new) <= 0.02 and max(new) <= 0.13
    assert max(errors[row["id"]] for row in known if row["kind"] == "C") <= 0.03
    manuals_alone = [errors[row["id"]] for row in known if row["core"] == "cortex-m33"]
    assert len(manuals_alone) == 8 and max(manuals_alone) <= 0.14
    for core in ("cortex-m4", "cortex-m7"):
        fitted = shipped(cores.table(core))
        worst = max(
            errors[row["id"]] for row in rows if row["core"] == core and row["kind"] == "int8" and row["id"] in errors
        )
        left_out = max(abs(error) for error in fitted.provenance["left_out_errors"].values())
        assert fitted.error_band is not None and max(worst, left_out) <= fitted.error_band
        assert fitted.version == parameters.fingerprint(fitted.values)


def test_floating_point_code_is_not_said_to_be_calibrated() -> None:
    made = CycleModel.of(boards.load("nucleo-f746"))
    assert made.band(integer=True) == 0.09 and made.band(integer=False) is None


def test_flash_without_wait_states_is_as_fast_as_a_cache() -> None:
    board = boards.load("nucleo-l4r5")
    assert CycleModel.of(board, clock_hz=20_000_000).memory.fetch is None
    assert CycleModel.of(board).memory.fetch is not None
