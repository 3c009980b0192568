"""Forms for a board's memory: the preferred ones where there is room, else the best that fit, else a clear error."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixed_networks import mixed_network

from harness import boards
from harness.assets import boards_dir
from harness.codegen import choose
from harness.codegen.choose import Prefer, Room
from harness.codegen.generate import default_site, generate
from harness.errors import DoesNotFit
from harness.graph.graph import Graph
from harness.kernelbench import shapes
from harness.ops.lowering import Site, Target
from harness.pipeline import Outcome, RunSpec, link, run
from harness.preparation import Compression, prepare
from harness.progress import Silent
from harness.toolchain import compiler

needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")

CORE = "cortex-m4"


def sites(graph: Graph) -> list[Site]:
    return [default_site(graph, layer, Target(CORE)) for layer in graph.layers]


def smaller(tmp_path: Path, base: str, **bytes_: int) -> str:
    """The manifest of a board like `base` with less memory."""
    manifest = json.loads((boards_dir() / f"{base}.json").read_text())
    for region in manifest["harness"]["memory"]:
        region["length"] = bytes_.get(region["kind"], region["length"])
        manifest["upload"]["maximum_size" if region["kind"] == "flash" else "maximum_ram_size"] = region["length"]
    path = tmp_path / "a-small-one.json"
    path.write_text(json.dumps(manifest))
    return str(path)


@pytest.fixture(scope="module")
def resnet8() -> Graph:
    return prepare("resnet8", Compression()).graph


def on_simulator(model: str, board: str, **options: object) -> Outcome:
    return run(RunSpec(model, board, engine="simulator", samples=1, repeat=1, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_what_fits_is_found(seed: int) -> None:
    """Against all combinations: where one fits, so does what is chosen, for RAM, for flash and for both."""
    graph = mixed_network(seed)
    network = choose._Network(graph, sites(graph))
    candidates = [
        choose._every_candidate(layer, site)[:5] for layer, site in zip(graph.layers, sites(graph), strict=True)
    ]
    assert prod(map(len, candidates)) < 20_000
    totals = [network.total(combination) for combination in itertools.product(*candidates)]
    ram, flash = min(total.ram for total in totals), min(total.flash for total in totals)
    by_ram = min((total.ram, total.flash) for total in totals)
    for room in (Room(ram=ram), Room(flash=flash), Room(by_ram[1], by_ram[0])):
        found = network.total(choose._within(network, candidates, "balanced", room))
        assert room.ram is None or found.ram <= room.ram
        assert room.flash is None or found.flash <= room.flash


@pytest.mark.parametrize("seed", range(8))
def test_bounds_leave_the_best_combination(seed: int) -> None:
    graph = mixed_network(seed)
    network = choose._Network(graph, sites(graph))
    candidates = [
        choose._every_candidate(layer, site)[:4] for layer, site in zip(graph.layers, sites(graph), strict=True)
    ]
    combinations = list(itertools.product(*candidates))
    for prefer in get_args(Prefer):

        def rank(combination: Sequence[Any], prefer: Prefer = prefer) -> tuple[float, float]:
            return network.total(combination).rank(prefer)

        def bound(combination: Sequence[Any], prefer: Prefer = prefer) -> tuple[float, float]:
            return network.roughly(combination).rank(prefer)

        assert all(bound(combination) <= rank(combination) for combination in combinations)
        assert choose._best(candidates, rank, bound=bound) == min(combinations, key=rank)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1))
def test_the_first_of_the_lowest_is_found_by_bounds(ranks: list[tuple[int, int]]) -> None:
    """ranks: and how far below them their bounds are."""
    combinations: list[Any] = [(index,) for index in range(len(ranks))]
    found = choose._lowest(
        combinations, lambda one: (ranks[one[0]][0],), lambda one: (ranks[one[0]][0] - ranks[one[0]][1],)
    )
    assert found == min(combinations, key=lambda one: ranks[one[0]][0])


@pytest.mark.parametrize("seed", range(8))
def test_the_program_is_exact(seed: int) -> None:
    """The fewest instructions of so much flash, and the least flash, functions that layers share counted once."""
    graph = mixed_network(seed, narrow=False)
    network = choose._Network(graph, sites(graph))
    candidates = [
        choose._every_candidate(layer, site)[:5] for layer, site in zip(graph.layers, sites(graph), strict=True)
    ]
    # Where a neighbour's layout changes what a layer costs, a linear program does not see that.
    candidates = [[one for one in options if one.planar_cost is None] for options in candidates]
    totals = [network.total(combination) for combination in itertools.product(*candidates)]
    sizes = sorted({total.flash for total in totals})
    smallest = choose._fastest(candidates, None)
    assert smallest is not None and network.total(smallest).flash == sizes[0]
    for flash in (sizes[0], sizes[len(sizes) // 3], sizes[-1]):
        found = choose._fastest(candidates, flash)
        assert found is not None and network.total(found).flash <= flash
        best = min(total.instructions for total in totals if total.flash <= flash)
        assert network.total(found).instructions == pytest.approx(best, rel=1e-3)
    assert choose._fastest(candidates, sizes[0] - 1) is None


def test_plenty_of_memory_changes_nothing(resnet8: Graph) -> None:
    one = generate(resnet8, variant="int8", core=CORE)
    assert one == generate(resnet8, variant="int8", core=CORE, room=Room(2**20, 2**20))
    assert not one.leaner and one.flash_bytes is not None
    assert one == generate(resnet8, variant="int8", core=CORE, room=Room(one.flash_bytes, one.activation_bytes))


def test_layers_that_set_the_peak_give_way_first(resnet8: Graph) -> None:
    """ResNet-8: two of its four Winograd layers need the most RAM. What the others take does not matter."""
    roomy = generate(resnet8, variant="int8", core=CORE)
    forms = {layer.name: layer.form for layer in roomy.layers}
    last: dict[str, str | None] = {}
    for ram in (60_000, 50_000, 36_300):
        made = generate(resnet8, variant="int8", core=CORE, room=Room(ram=ram))
        assert made.activation_bytes <= ram and made.leaner
        assert made == generate(resnet8, variant="int8", core=CORE, room=Room(ram=ram))
        last = {layer.name: layer.form for layer in made.layers}
        if ram == 60_000:
            assert last["stack1_conv1"] == last["stack2_conv2"] == forms["stack2_conv2"] == "winograd"
            assert last["stack3_conv2"] != "winograd"
    assert "winograd" not in last.values()


def test_pins_are_kept_whatever_they_need(resnet8: Graph) -> None:
    pins = {"stack3_conv2": "winograd", "stack1_conv1": "tile"}
    made = generate(resnet8, variant="int8", core=CORE, forms=pins, room=Room(0, 40_000))
    assert made.leaner and {layer.name: layer.form for layer in made.layers}.items() >= pins.items()


def test_a_layer_of_one_form_is_what_it_is() -> None:
    graph = next(shape for shape in shapes.of("ds-cnn") if shape.kind == "avg_pool").graph()
    made = generate(graph, variant="int8", core="cortex-m0", room=Room(0, 0))
    assert made == generate(graph, variant="int8", core="cortex-m0")


@needs_arm
def test_a_network_that_does_not_fit_in_its_best_forms_runs_in_leaner_ones(tmp_path: Path) -> None:
    board = smaller(tmp_path, "nucleo-f446", ram=64 * 1024)
    outcome = on_simulator("resnet8", board)
    assert outcome.verdict is None and outcome.result.bit_exact is True and outcome.result.forms == "leaner"
    footprint = outcome.result.footprint
    assert footprint is not None and footprint.ram.total <= 64 * 1024
    assert "winograd" in [layer.form for layer in outcome.result.layers]


@needs_arm
def test_what_does_not_fit_at_all_says_what_would(tmp_path: Path, resnet8: Graph) -> None:
    board = boards.load(smaller(tmp_path, "nucleo-f446", ram=32 * 1024))
    with pytest.raises(DoesNotFit) as refused:
        link(resnet8, "int8", board, Silent())
    said = re.fullmatch(
        r"the image does not fit a-small-one: .*; its smallest forms need ([\d,]+) bytes of RAM", str(refused.value)
    )
    assert said is not None
    # True to the byte: with so much, it links.
    enough = boards.load(smaller(tmp_path, "nucleo-f446", ram=int(said[1].replace(",", ""))))
    assert link(resnet8, "int8", enough, Silent()).ram.total == enough.region("ram").length


@needs_arm
def test_the_linker_says_what_flash_there_is(tmp_path: Path, resnet8: Graph) -> None:
    """The best forms take 102 kB with the firmware's own code, which no estimate knows."""
    board = boards.load(smaller(tmp_path, "nucleo-f446", flash=96 * 1024))
    footprint = link(resnet8, "int8", board, Silent())
    assert 92 * 1024 < footprint.flash.total <= 96 * 1024
    with pytest.raises(DoesNotFit, match=r"its smallest forms need [\d,]+ bytes of flash$"):
        link(resnet8, "int8", boards.load(smaller(tmp_path, "nucleo-f446", flash=80 * 1024)), Silent())


@pytest.mark.slow
@needs_arm
def test_less_flash_runs_too_and_pins_may_be_what_does_not_fit(tmp_path: Path) -> None:
    outcome = on_simulator("resnet8", smaller(tmp_path, "nucleo-f446", flash=96 * 1024))
    assert outcome.verdict is None and outcome.result.bit_exact is True and outcome.result.forms == "leaner"
    with pytest.raises(DoesNotFit, match="its smallest forms need"):
        on_simulator("resnet8", smaller(tmp_path, "nucleo-f446", ram=2**16), forms=("stack3_conv2=winograd",))


@pytest.mark.slow
@needs_arm
def test_mobilenet_at_160x160_runs_in_128_kb() -> None:
    """Its largest neighbours are 153,600 bytes: a layer has to write over the input that it consumes."""
    outcome = on_simulator("mobilenet-v1-0.25-160", "nucleo-f446")
    assert outcome.verdict is None and outcome.result.bit_exact is True and outcome.result.forms == "leaner"
    assert outcome.result.footprint is not None and outcome.result.footprint.ram.total <= 128 * 1024
