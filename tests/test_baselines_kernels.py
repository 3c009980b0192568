"""Baselines: each computes the network that it says it does, in C, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import baselines_networks as networks
import numpy as np
import pytest
from firmware_images import shared_cache
from hypothesis import given
from hypothesis import strategies as st

from harness import boards
from harness.boards import Board
from harness.codegen import baselines
from harness.codegen.baselines import cmsis_nn
from harness.codegen.generate import Generated, export, generate, logical_bytes, parse_output, serialize_input
from harness.engines import Choice
from harness.errors import BuildError, InputError
from harness.graph.graph import Graph, build
from harness.measurement import measure
from harness.ops.conv2d import Conv2d
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.ops.paper_a import LONGEST_STEP, PaperALinear
from harness.pipeline import RunSpec, run
from harness.progress import Silent
from harness.toolchain import compiler, platformio
from harness.toolchain.host import HostNetwork

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")
needs_cmsis_nn = pytest.mark.skipif(not os.environ.get(cmsis_nn.VARIABLE), reason="no CMSIS-NN in $HARNESS_CMSIS_NN")

BOARD = boards.load("mps2-an386")
STAND_IN = Path(__file__).parent / "baselines_library"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def images(graph: Graph, count: int = 6) -> np.ndarray:
    random = np.random.default_rng(7)
    if graph.integer:
        return random.integers(0, 256, (count, *graph.input_tensor.shape)).astype(np.uint8)
    return random.random((count, *graph.input_tensor.shape)).astype(np.float32)


def assert_bit_exact(graph: Graph, generated: Generated, cache: Path) -> None:
    """Every layer of every image, in C and under sanitizers, against the reference."""
    x = images(graph)
    ran = HostNetwork(generated, cache_dir=cache, sanitize=True).infer(x)
    for index, (layer, values) in enumerate(graph.run(x)):
        expected = [zlib.crc32(logical_bytes(graph, layer, value)) for value in values]
        assert ran.crcs[:, index].tolist() == expected, layer.name


# ---- unlu


@pytest.mark.parametrize("channels", [1, 3])
def test_unlu_computes_the_float_graph(channels: int, cache: Path) -> None:
    graph = networks.floats(channels=channels)
    x = images(graph)
    generated = generate(graph, variant="fp32", core="cortex-m4", kernels="unlu")
    ran = HostNetwork(generated, cache_dir=cache, sanitize=True).infer(x)
    got = np.stack([parse_output(graph, output) for output in ran.outputs])
    np.testing.assert_allclose(got, graph.infer(x), rtol=1e-5, atol=1e-5)


def test_unlu_needs_two_buffers_and_no_more() -> None:
    graph = networks.floats()
    generated = generate(graph, variant="fp32", core="cortex-m4", kernels="unlu")
    assert generated.activation_bytes == 4 * (10 * 8 * 3 + 5 * 4 * 5)
    assert {layer.form for layer in generated.layers} == {"unlu"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relu": False}, "stride 1 with ReLU"),
        ({"stride": (2, 2)}, "stride 1 with ReLU"),
        ({"padding": (1, 0)}, "square padding"),
        ({"pool": Window((2, 2), (1, 1))}, "do not overlap"),
    ],
)
def test_unlu_refuses_what_the_paper_cannot_do(change: dict[str, object], words: str) -> None:
    graph = networks.floats()
    layer = dataclasses.replace(graph.layers[0], **change)
    with pytest.raises(InputError, match=words):
        baselines.find(graph, "unlu").forms(dataclasses.replace(graph, layers=(layer, *graph.layers[1:])))


# ---- paper A


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_paper_a_is_bit_exact(seed: int, channels: int, cache: Path) -> None:
    graph = networks.paper_a(seed, channels=channels)
    assert_bit_exact(graph, generate(graph, variant="paper-a", core="cortex-m4"), cache)


def test_paper_a_copes_with_layers_and_filters_without_weights(cache: Path) -> None:
    graph = networks.paper_a(sparsity=1.0)
    assert_bit_exact(graph, generate(graph, variant="paper-a", core="cortex-m4"), cache)


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 127)), max_size=12), st.integers(0, 700))
def test_paper_a_streams_hold_every_weight(gaps: list[tuple[int, int]], tail: int) -> None:
    weights: list[int] = []
    for gap, value in gaps:
        weights += [0] * gap + [value]
    weights += [0] * tail + [0]
    layer = dataclasses.replace(networks.paper_a().layers[-1], weight=np.array([weights], np.int8))
    assert isinstance(layer, PaperALinear)
    values, steps = layer.stream()
    decoded = np.zeros(len(weights) + LONGEST_STEP + 1, np.int64)
    position = 0
    for value, step in zip(values.tolist(), steps.tolist(), strict=True):
        position += step
        decoded[position] += value
    assert decoded[: len(weights)].tolist() == weights
    # The reader stops by itself: the last entry is past the last weight, and has no value.
    assert position == len(weights) and values[-1] == 0


def test_paper_a_and_its_variant_belong_together() -> None:
    with pytest.raises(InputError, match="paper's way"):
        generate(networks.integers(), variant="int8", core="cortex-m4", kernels="paper-a")
    with pytest.raises(InputError, match="not plain"):
        generate(networks.paper_a(), variant="paper-a", core="cortex-m4", kernels="plain")


# ---- CMSIS-NN


def test_cmsis_nn_runs_the_same_values_unfused() -> None:
    graph = networks.integers()
    x = images(graph)
    adapted = cmsis_nn.adapt(graph, x)
    assert [type(layer) for layer in adapted.layers[:2]] == [Conv2d, MaxPool2d]
    before = {layer.output: values for layer, values in graph.run(x)}
    after = {layer.output: values for layer, values in adapted.run(x)}
    scores = graph.output.name
    for tensor in before.keys() - {scores}:
        np.testing.assert_array_equal(after[tensor], before[tensor])
    assert after[scores].dtype == np.uint8
    tensor = adapted.output
    real = tensor.scale * (after[scores].astype(np.float64) - tensor.zero_point)
    np.testing.assert_allclose(real, before[scores] * graph.output.scale, atol=tensor.scale)


def test_cmsis_nn_sums_are_off_by_one_step_at_most() -> None:
    graph = networks.residual(zero_point=9)
    x = images(graph, 40)
    adapted = cmsis_nn.adapt(graph, x)
    before = {layer.output: values for layer, values in graph.run(x)}
    after = {layer.output: values for layer, values in adapted.run(x)}
    np.testing.assert_array_equal(after["shortcut"], before["shortcut"])
    difference = after["sum"].astype(int) - before["sum"]
    assert 0 < np.abs(difference).mean() < 0.02 and np.abs(difference).max() == 1
    real = sum(
        adapted.tensors[name].scale * (after[name].astype(float) - adapted.tensors[name].zero_point)
        for name in ("pointwise", "shortcut")
    )
    exact = np.clip(real / adapted.tensors["sum"].scale + 5, 0, 255)
    assert np.abs(after["sum"] - exact).max() < 0.502


def test_cmsis_nn_refuses_what_it_would_spoil() -> None:
    """It turns the network's input into signed numbers where it lies, so that nobody else can read it."""
    graph = networks.residual()
    twice = dataclasses.replace(graph.layers[1], inputs=("input",), name="again", output="again")
    changed = dataclasses.replace(graph, layers=(*graph.layers[:1], twice, *graph.layers[1:]))
    with pytest.raises(InputError, match="several layers read it"):
        cmsis_nn.forms(changed)


def stand_in(folder: Path, board: Board, *flags: str) -> Path:
    """A folder as $HARNESS_CMSIS_NN names it, with our stand-in for the board's core; returns its library."""
    archive = folder / "lib" / board.core / "libcmsis-nn.a"
    archive.parent.mkdir(parents=True)
    shutil.copytree(STAND_IN / "Include", folder / "Include")
    machine = (f"-mcpu={board.core}", "-mthumb", f"-mfloat-abi={board.float_abi}", f"-mfpu={board.fpu}")
    options = (*machine, "-std=c11", "-O2", "-ffunction-sections", "-Wall", "-Wextra", "-Werror", *flags)
    source = [f"-I{folder / 'Include'}", "-c", str(STAND_IN / "stand_in.c"), "-o", str(folder / "stand_in.o")]
    subprocess.run([str(compiler.arm().path), *options, *source], check=True, timeout=60)
    archiver = compiler.arm().path.with_name("arm-none-eabi-ar")
    subprocess.run([str(archiver), "rcs", str(archive), str(folder / "stand_in.o")], check=True, timeout=60)
    return archive


def linked(graph: Graph, board: Board) -> platformio.BuildInputs:
    generated = generate(graph, variant="int8", core=board.core, kernels="cmsis-nn")
    return platformio.BuildInputs(name="small", files=generated.contents, optimize=generated.optimize)


@pytest.fixture(scope="module")
def adapted() -> Graph:
    graph = networks.integers()
    return cmsis_nn.adapt(graph, images(graph))


def test_cmsis_nn_says_what_is_missing(adapted: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> InputError:
        with pytest.raises(InputError) as caught:
            generate(adapted, variant="int8", core="cortex-m7", kernels="cmsis-nn")
        assert not cmsis_nn.available("cortex-m7")
        return caught.value

    monkeypatch.delenv(cmsis_nn.VARIABLE, raising=False)
    assert "not part of this repository" in refused().message
    for words in (cmsis_nn.VARIABLE, "lib/cortex-m7/libcmsis-nn.a", "CMSIS_NN_USE_SINGLE_ROUNDING"):
        assert words in (refused().hint or "")
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path))
    assert "no Include/arm_nnfunctions.h" in refused().message
    (tmp_path / "Include").mkdir()
    (tmp_path / "Include" / "arm_nnfunctions.h").write_text("/* public */")
    (tmp_path / "lib" / "cortex-m4").mkdir(parents=True)
    (tmp_path / "lib" / "cortex-m4" / "libcmsis-nn.a").write_bytes(b"!<arch>\n")
    assert "no CMSIS-NN for cortex-m7" in refused().message
    assert "CMSIS_NN_USE_SINGLE_ROUNDING" in (refused().hint or "")
    (tmp_path / "lib" / "cortex-m7").mkdir()
    (tmp_path / "lib" / "cortex-m7" / "libcmsis-nn.a").write_bytes(b"!<thin>\n")
    assert "no static library" in refused().message
    assert cmsis_nn.available("cortex-m4") and refused().exit_code == 2


def test_cmsis_nn_brings_headers_and_the_library_of_the_core(
    adapted: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path))
    (tmp_path / "Include" / "Internal").mkdir(parents=True)
    (tmp_path / "Include" / "arm_nnfunctions.h").write_text("/* public */")
    (tmp_path / "Include" / "Internal" / "config.h").write_text("/* internal */")
    for core in ("cortex-m4", "cortex-m7"):
        (tmp_path / "lib" / core).mkdir(parents=True)
        (tmp_path / "lib" / core / "libcmsis-nn.a").write_bytes(b"!<arch>\n" + core.encode())
    generated = generate(adapted, variant="int8", core="cortex-m4", kernels="cmsis-nn")
    assert {"cmsis_nn/arm_nnfunctions.h", "cmsis_nn/Internal/config.h"} <= generated.files.keys()
    assert not any(name.startswith("cmsis_nn") and name.endswith(".c") for name in generated.files)
    assert generated.libraries == {"cmsis_nn/libcmsis-nn.a": b"!<arch>\ncortex-m4"}
    written = export(adapted, variant="int8", core="cortex-m4", directory=tmp_path / "out", kernels="cmsis-nn")
    assert (tmp_path / "out" / "cmsis_nn" / "libcmsis-nn.a").read_bytes() == b"!<arch>\ncortex-m4"
    assert tmp_path / "out" / "cmsis_nn" / "arm_nnfunctions.h" in written
    assert "Link `cmsis_nn/libcmsis-nn.a` too." in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match="built for cortex-m4: this machine cannot run it"):
        HostNetwork(generated, cache_dir=tmp_path / "cache")


def test_cmsis_nn_is_refused_for_the_host_before_anything_runs() -> None:
    with pytest.raises(InputError, match="kernels cmsis-nn link a library that is built for cortex-m7") as caught:
        run(RunSpec("lenet5", "nucleo-f746", engine="host", kernels="cmsis-nn"))
    assert "compared with the reference" in (caught.value.hint or "")


def test_cmsis_nn_refuses_accumulators_beyond_its_range() -> None:
    graph = cmsis_nn.adapt(networks.integers(), images(networks.integers()))
    layer = graph.layers[0]
    assert isinstance(layer, Conv2d) and layer.requantize is not None
    huge = dataclasses.replace(
        layer.requantize,
        multiplier=np.full(len(layer.weight), 2**31 - 1, np.int64),
        shift=np.full(len(layer.weight), 31, np.int64),
    )
    bias = np.full(len(layer.weight), 2**30, np.int32)
    wide = dataclasses.replace(layer, requantize=huge, bias=bias)
    changed = build(graph.name, graph.input_tensor, (wide, *graph.layers[1:]), graph.tensors)
    with pytest.raises(InputError, match="range of CMSIS-NN"):
        cmsis_nn.forms(changed)


@needs_arm
@pytest.mark.parametrize(("zero_point", "shared"), [(0, False), (37, True)])
def test_layers_linked_with_a_library_are_bit_exact_on_the_board(
    zero_point: int, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our stand-in for CMSIS-NN: what is tested is what we give to it, and the linking."""
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path / "li brary"))
    stand_in(tmp_path / "li brary", BOARD)
    assert_bit_exact_on_board(networks.integers(zero_point=zero_point, shared=shared))


@needs_arm
def test_sums_and_depthwise_convolutions_linked_with_a_library_are_bit_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path))
    stand_in(tmp_path, BOARD)
    assert_bit_exact_on_board(networks.residual(zero_point=9))


@needs_arm
def test_a_library_that_rounds_otherwise_is_noticed(
    adapted: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path))
    stand_in(tmp_path, BOARD, "-DSTAND_IN_ROUNDS_DOWN")
    with pytest.raises(AssertionError, match="layer1"):
        assert_bit_exact_on_board(networks.integers())


@needs_arm
def test_a_library_of_another_float_abi_is_named(
    adapted: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cmsis_nn.VARIABLE, str(tmp_path))
    stand_in(tmp_path, BOARD, "-mfloat-abi=softfp")
    with pytest.raises(BuildError, match=r"libcmsis-nn\.a\(.*\) was built for another float ABI than mps2-an386"):
        platformio.build(linked(adapted, BOARD), BOARD, cache_dir=shared_cache())


@needs_cmsis_nn
@pytest.mark.parametrize(("zero_point", "shared"), [(0, False), (37, False), (0, True), (37, True)])
def test_cmsis_nn_is_bit_exact(zero_point: int, shared: bool) -> None:
    assert_bit_exact_on_board(networks.integers(zero_point=zero_point, shared=shared))


@needs_cmsis_nn
@pytest.mark.parametrize("zero_point", [0, 9])
def test_cmsis_nn_is_bit_exact_with_sums_and_depthwise_convolutions(zero_point: int) -> None:
    assert_bit_exact_on_board(networks.residual(zero_point=zero_point))


def assert_bit_exact_on_board(graph: Graph) -> None:
    """Every layer of every image on QEMU, against the reference; and the library is counted as the network's."""
    x = images(graph, 2)
    adapted = cmsis_nn.adapt(graph, x)
    firmware = platformio.build(linked(adapted, BOARD), BOARD, cache_dir=shared_cache())
    members = {part.kind for part in firmware.footprint.sections if "libcmsis-nn.a(" in part.origin}
    assert members == {"kernels"}
    inputs = [serialize_input(adapted, image) for image in x]
    choice = Choice("qemu", "asked for")
    layers = len(adapted.layers)
    measured = measure(firmware, BOARD, choice, inputs, layers=layers, repeat=1, serial=None, reporter=Silent())
    for index, (layer, values) in enumerate(adapted.run(x)):
        expected = [zlib.crc32(logical_bytes(adapted, layer, value)) for value in values]
        assert [answer.crcs[index] for answer in measured.inferences] == expected, layer.name


# ---- all of them


def test_floats_and_integers_are_not_mixed_up() -> None:
    with pytest.raises(InputError, match="float32"):
        generate(networks.integers(), variant="int8", core="cortex-m4", kernels="unlu")
    with pytest.raises(InputError, match="8-bit integers"):
        generate(networks.floats(), variant="fp32", core="cortex-m4", kernels="cmsis-nn")


def test_an_unknown_kernel_set_names_the_baselines() -> None:
    with pytest.raises(InputError) as caught:
        generate(networks.floats(), variant="fp32", core="cortex-m4", kernels="unlo")
    assert "unlu" in (caught.value.hint or "")


@needs_arm
@pytest.mark.parametrize(("variant", "kernels"), [("fp32", "unlu"), ("paper-a", "paper-a")])
def test_an_exported_baseline_compiles_alone(variant: str, kernels: str, tmp_path: Path) -> None:
    graph = networks.floats() if variant == "fp32" else networks.paper_a()
    export(graph, variant=variant, core="cortex-m4", directory=tmp_path / "out", kernels=kernels)
    command = [str(compiler.arm().path), "-mcpu=cortex-m4", "-mthumb", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-c", "network.c", "-o", "network.o"], cwd=tmp_path / "out", check=True, timeout=60)
