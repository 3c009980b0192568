"""`harness bench-kernels`: exact kernels on the layers of published networks, at a cost that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_commands import refused, run

from harness import boards
from harness.kernelbench import bench, plots, shapes
from harness.toolchain import compiler

needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

# Instructions per multiply-accumulate that dense kernels of 8-bit weights may take at most, by kind; CMSIS-NN's s8
# (at -Ofast) takes 1.7 to 2.3, 1.7 to 5.8, 6.4 to 8.8, 3.3 to 5.9 and 1.9 to 2.8.
MOST = {"3x3": 0.83, "pointwise": 1.35, "depthwise": 1.4, "first": 1.15, "linear": 1.7}


def test_the_shapes_are_those_of_the_networks() -> None:
    macs = {
        name: sum(shape.count * shape.graph().macs(shape.graph().layers[0]) for shape in shapes.of(name))
        for name in shapes.NETWORKS
    }
    assert macs == {"mobilenet": 7_489_664, "resnet8": 12_501_632, "ds-cnn": 2_656_768, "autoencoder": 264_192}


@needs_arm
@pytest.mark.parametrize("network", ["ds-cnn", "autoencoder"])
def test_kernels_are_exact_and_as_fast_as_ever(network: str) -> None:
    found = list(bench.measure(boards.load("nucleo-f746"), shapes.of(network), widths=(8,)))
    ours = [one for one in found if one.form != bench.CMSIS_NN]
    assert [one.layer for one in ours] == [shape.name for shape in shapes.of(network)]
    for one in found:
        assert one.exact is not False, f"{one.form} on {one.layer}"
    for one in ours:
        assert one.chosen and one.constants + one.code > 0
        # A Cortex-M7 issues two instructions a cycle at best.
        assert 0.5 * one.instructions < one.cycles < 2.5 * one.instructions
        assert one.per_mac is None or one.per_mac <= MOST[one.kind], one.layer


@needs_arm
def test_narrow_weights_cost_hardly_more() -> None:
    layers = [shape for shape in shapes.of("ds-cnn") if shape.kind in ("first", "pointwise", "depthwise")]
    found = list(bench.measure(boards.load("nucleo-f746"), layers, widths=(8, 4, 2)))
    ours = {(one.layer, one.weight_bits): one for one in found if one.form != bench.CMSIS_NN}
    for shape in layers:
        full = ours[shape.name, 8]
        for bits in (4, 2):
            narrow = ours[shape.name, bits]
            assert narrow.exact and narrow.instructions <= 1.05 * full.instructions
            assert narrow.constants < full.constants


@needs_arm
def test_packed_activations_are_exact_and_cost_little() -> None:
    """Inputs and outputs of 4 bits; the first layer reads bytes, sums and averages have no weights."""
    layers = shapes.of("ds-cnn")
    layers = [*layers, next(shape for shape in shapes.of("resnet8") if shape.kind == "add")]
    board = boards.load("nucleo-f746")
    wide = {one.layer: one for one in bench.measure(board, layers, widths=(8,)) if one.form != bench.CMSIS_NN}
    found = list(bench.measure(board, layers, widths=(8, 4), activations=(4,)))
    assert all(one.exact for one in found) and bench.CMSIS_NN not in {one.form for one in found}
    assert {one.widths for one in found if one.kind == "first"} == {"8x8>4", "8x4>4"}
    assert {one.widths for one in found if one.kind in ("add", "avg_pool")} == {"4x8"}
    assert {one.layer for one in found} == set(wide)
    for one in found:
        if one.kind in ("pointwise", "depthwise", "first"):
            assert one.instructions <= 1.15 * wide[one.layer].instructions


@needs_arm
@pytest.mark.parametrize(("weights", "activations"), [(4, 4), (2, 8)])
def test_narrow_lanes_take_three_quarters(weights: int, activations: int) -> None:
    layers = [shape for shape in shapes.of("ds-cnn") if shape.kind == "pointwise"]
    layers += [shape for shape in shapes.of("mobilenet") if shape.name == "pointwise 128->128 on 6x6"]
    board = boards.load("nucleo-l4r5")
    wide = {one.layer: one for one in bench.measure(board, layers, widths=(8,)) if one.chosen}
    options = {"widths": (weights,), "activations": (activations,), "symmetric": True}
    narrow = {one.layer: one for one in bench.measure(board, layers, **options) if one.chosen}  # type: ignore[arg-type]
    assert len(layers) == 2 and wide.keys() == narrow.keys() == {layer.name for layer in layers}
    for layer, one in narrow.items():
        assert one.exact and one.form == "narrow" and one.widths == f"{activations}x{weights}s"
        assert one.instructions <= 0.75 * wide[layer].instructions


@needs_arm
def test_depthwise_convolutions_of_small_images() -> None:
    # A quarter of what CMSIS-NN's s8 takes at -O2, where it is faster than at -Ofast.
    most = {"depthwise 3x3 128 on 6x6": 63_700, "depthwise 3x3 256 on 3x3": 28_620}
    layers = [shape for shape in shapes.of("mobilenet") if shape.name in most]
    full: dict[str, int] = {}
    for one in bench.measure(boards.load("nucleo-f746"), layers, widths=(8, 4, 2)):
        if one.form != bench.CMSIS_NN:
            assert one.exact and one.instructions <= 1.05 * full.setdefault(one.layer, one.instructions)
    assert full.keys() == most.keys()
    for layer, instructions in full.items():
        assert instructions <= most[layer]


@needs_arm
def test_the_command(tmp_path: Path) -> None:
    plot = tmp_path / "kernels.svg"
    done = run("bench-kernels", "--shapes", "autoencoder", "--json", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["core"] == "cortex-m7" and "arm-none-eabi-gcc" in found["compiler"]
    assert {one["layer"] for one in found["measurements"]} >= {"fully connected 640->128"}
    assert plot.read_text().startswith("<?xml")
    table = run("bench-kernels", "--shapes", "autoencoder", "--all", "--activations", "4").stdout
    assert "fully connected 640->128" in table and "quads*" in table and "packed" in table and " 4x8 " in table


def test_what_it_refuses() -> None:
    assert "resnet8" in refused(run("bench-kernels", "--shapes", "resnet"))
    assert "width of weights" in refused(run("bench-kernels", "--bits", "3"))
    assert "width of activations" in refused(run("bench-kernels", "--activations", "16"))


def test_the_same_figures_give_the_same_plot() -> None:
    one = bench.Measurement(
        "ds-cnn", "pointwise", "pointwise", 1, "tile", 8, False, 8, 8, "8x8", 1000, 830, 900, 1, 2, 3, True, True
    )
    for suffix in (".svg", ".png"):
        assert plots.draw([one], title="t", suffix=suffix) == plots.draw([one], title="t", suffix=suffix)
