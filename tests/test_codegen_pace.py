"""What instructions cost on a board decides between storage forms: the same network, other forms for another board."""

from __future__ import annotations

from sparse_networks import POOL2, Sparse, in_c

from harness import boards
from harness.codegen.pace import Pace, _measured, family
from harness.emulators.simulator.cycles.cores import TABLES
from harness.graph.graph import Graph
from harness.kernelbench import shapes
from harness.ops.lowering import Cost


def lenet5() -> Graph:
    """LeNet-5's shapes, pruned; the second convolution as code has more bytes than an STM32L4R5 has cache."""
    return (
        Sparse((32, 32, 1), seed=7)
        .conv2d(6, (5, 5), pool=POOL2, density=0.4)
        .conv2d(16, (5, 5), pool=POOL2, density=0.25)
        .linear(120, density=0.04)
        .linear(84, density=0.12)
        .linear(10, last=True, density=0.4)
        .build()
    )


def test_families_leave_numbers_out() -> None:
    assert [family(name) for name in ("bytes-5.3", "lanes-code-4", "lanes-table", "quads")] == [
        "bytes", "lanes-code", "lanes-table", "quads",
    ]  # fmt: skip


def test_code_that_does_not_fit_the_cache_is_fetched_every_time() -> None:
    rates = {"conv2d": {"lanes-code": 1.25, "lanes-table": 1.5}, "linear": {"quads": 2.0}}
    pace = Pace(rates, cache_bytes=1024, line_bytes=32, line_cycles=10)
    fits, not_so = Cost(500, 0, 1000, code=400), Cost(500, 0, 1000, code=600)
    once = 500 / 32 * 10  # every constant passes the cache once
    assert pace.cycles("conv2d", "lanes-code", fits) == round(1250 + once)
    assert pace.cycles("conv2d", "lanes-code-4", not_so) == round(1250 + 1125 + once)
    assert pace.cycles("conv2d", "lanes-table", not_so) == round(1500 + once)  # its loop is short, its tables are data
    # What nobody measured: the median of its kind, or of everything.
    assert pace.cycles("conv2d", "unheard-of", fits) == round(1375 + once)
    assert pace.cycles("linear", "lanes-code", fits) == round(2000 + once)
    assert pace.cycles("add", "lanes-code", fits) == round(1500 + once)


def test_boards_of_which_nothing_is_known_count_instructions() -> None:
    assert Pace.of(boards.load("mps2-an386")) is None
    assert Pace.of(boards.load("mps3-an547")) is None
    assert Pace.of(boards.load("b-u585i")) is not None
    known = Pace.of(boards.load("nucleo-l4r5"))
    assert known is not None and known.cache_bytes == 1024 and known.line_cycles > 5
    assert 1 < known.rate("conv2d", "lanes-code-4") < known.rate("conv2d", "lanes-table") < 2


def test_every_core_with_a_table_has_rates_of_every_kind() -> None:
    kinds = {shape.graph().layers[0].kind for network in shapes.NETWORKS for shape in shapes.of(network)}
    assert set(_measured()) == set(TABLES)
    for rates in _measured().values():
        assert kinds <= set(rates)
        assert all("plain" in families or "packed" in families for families in rates.values())
        assert all(0.4 < rate < 4 for families in rates.values() for rate in families.values())
    dense = {"tile", "winograd", "pairs", "narrow"}
    assert all(dense <= set(_measured()[core]["conv2d"]) for core in TABLES if core in boards.DSP_CORES)


def test_a_slow_flash_gets_tables_where_a_cache_gets_code() -> None:
    """By harness profile, conv2 as code needs half of a table's cycles on an F746, and more than that on an L4R5."""
    graph = lenet5()
    forms = {}
    for name in ("nucleo-f746", "nucleo-l4r5"):
        board = boards.load(name)
        made = in_c(graph, core=board.core, prefer="speed", pace=Pace.of(board))
        forms[name] = {layer.name: layer.form or "" for layer in made.layers}
    conv2 = [layer.name for layer in graph.layers][1]
    assert "code" in forms["nucleo-f746"][conv2]
    assert "code" not in forms["nucleo-l4r5"][conv2]
