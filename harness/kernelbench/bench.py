"""Measures kernel forms on layer shapes: instructions on a simulated core, bytes of the image, bits of the result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.assets import firmware_dir
from harness.codegen.baselines import cmsis_nn as baseline
from harness.codegen.generate import OPTIMIZE, Generated, default_site, generate, parse_output, serialize_input
from harness.kernelbench import cmsis_nn
from harness.kernelbench.core import Core
from harness.kernelbench.shapes import LayerShape, narrower
from harness.ops.linear import Linear
from harness.ops.lowering import Target
from harness.toolchain import compiler

if TYPE_CHECKING:
    from harness.boards import Board
    from harness.emulators.simulator.cycles.model import CycleModel
    from harness.graph.graph import Graph
    from harness.ops.base import Array

CMSIS_NN = "cmsis-nn"

# How much faster than CMSIS-NN a kernel of each kind has to be, at least.
ASKED = {"3x3": 1.8, "pointwise": 1.9, "depthwise": 4.0, "first": 4.0, "linear": 1.7}

# Our C is compiled with what it was measured with (generate.OPTIMIZE); calls of the library need nothing special.
_CALLS = "-O2"


@dataclass(frozen=True)
class Measurement:
    """One form on one shape. chosen: the form of the fewest instructions. What both have is LayerShape's.

    instructions, cycles: of one inference of the layer; cycles are modelled, from caches that know nothing of it.
    code, constants, scratch: bytes; scratch is what the layer needs beside its input and its output. exact: whether the
    result is the reference's, None where the library rounds otherwise.
    """

    network: str
    layer: str
    kind: str
    count: int
    form: str
    weight_bits: int
    symmetric: bool
    input_bits: int
    output_bits: int
    widths: str
    macs: int
    instructions: int
    cycles: int
    code: int
    constants: int
    scratch: int
    exact: bool | None
    chosen: bool = False

    @property
    def per_mac(self) -> float | None:
        """Instructions per multiply-accumulate; None for layers without any."""
        return self.instructions / self.macs if self.macs else None

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def measure(
    board: Board,
    shapes: Sequence[LayerShape],
    *,
    widths: Sequence[int] = (8, 4, 2),
    activations: Sequence[int] = (8,),
    symmetric: bool = False,
    every_form: bool = False,
    advance: Callable[[float], None] = lambda fraction: None,
) -> Iterator[Measurement]:
    """Every shape with weights and activations of each width: in the form of the fewest instructions by estimate, or in
    every one that fits. symmetric: weights of 4 and 2 bits leave out the most negative value.

    With CMSIS-NN beside it where the user's library is there (harness.codegen.baselines.cmsis_nn) and has the layer.
    advance: called with the fraction done. InputError when the simulator does not model the board; BuildError when C
    does not compile.
    """
    tasks = [
        narrower(shape, bits, active, symmetric=symmetric and bits != 8)
        for shape in shapes
        for active in activations
        for bits in widths
        if bits == 8 or shape.kind not in ("add", "avg_pool")
    ]
    linked = baseline.available(board.core)
    for index, shape in enumerate(tasks):
        graph = _one_factor(shape.graph())
        forms = _forms(graph, board.core)
        if linked and cmsis_nn.supported(graph):
            yield _library(board, shape, graph)
        for form in forms if every_form else forms[:1]:
            yield replace(_ours(board, shape, graph, form), chosen=form == forms[0])
        advance((index + 1) / len(tasks))


def ratios(
    found: Sequence[Measurement], unit: Literal["instructions", "cycles"] = "instructions"
) -> list[float | None]:
    """Per measurement: how many times its instructions CMSIS-NN takes for the layer; None where it was not there."""
    library = {_key(one): getattr(one, unit) for one in found if one.form == CMSIS_NN}
    return [
        None if one.form == CMSIS_NN or _key(one) not in library else library[_key(one)] / getattr(one, unit)
        for one in found
    ]


def _key(one: Measurement) -> tuple[object, ...]:
    return one.network, one.layer, one.widths


def provenance(board: Board) -> dict[str, Any]:
    """Of what was measured: board, core, compiler, flags; and whether CMSIS-NN was there (its flags are its user's)."""
    return {
        "board": board.id,
        "core": board.core,
        "compiler": compiler.arm().identity,
        "flags": OPTIMIZE,
        "cmsis_nn": baseline.available(board.core),
    }


def _one_factor(graph: Graph) -> Graph:
    """The same network; linear layers with one scale for all outputs, as the library's faster function wants."""
    layer = graph.layers[0]
    if not isinstance(layer, Linear) or layer.requantize is None:
        return graph
    r = layer.requantize
    shared = replace(r, multiplier=np.full_like(r.multiplier, r.multiplier.min()), shift=np.full_like(r.shift, 32))
    return replace(graph, layers=(replace(layer, requantize=shared),))


def _forms(graph: Graph, core: str) -> list[str]:
    """The names of the dense forms that fit the layer, the one with the fewest estimated instructions first."""
    layer = graph.layers[0]
    site = default_site(graph, layer, Target(core))
    fitting = [form for form in layer.forms if form.fits(layer, site)]
    return [form.name for form in sorted(fitting, key=lambda form: form.cost(layer, site).instructions)]


def _input(graph: Graph) -> Array:
    """One image (H, W, C) that reaches both ends of the range."""
    tensor = graph.input_tensor
    image = np.random.default_rng(1).integers(0, 2**tensor.bits, tensor.shape).astype(np.uint8)
    image.flat[0], image.flat[-1] = 0, 2**tensor.bits - 1
    return image


def _expected(graph: Graph, image: Array) -> Array:
    result: Array = graph.infer(image[None])[0]
    return result


def _generated(graph: Graph, core: str, form: str) -> Generated:
    """A network of one layer in that form."""
    forms = {graph.layers[0].name: form}
    return generate(graph, variant="int8", core=core, forms=forms, part=True)


def _core(board: Board, generated: Generated, folder: Path) -> Core:
    return Core(
        board,
        {name: text for name, text in generated.files.items() if name.startswith("network")},
        folder,
        includes=(firmware_dir() / "nn",),
        optimize=generated.optimize,
        roots=("network_input", "network_output", "network_infer"),
        model=_model(board),
    )


def _model(board: Board) -> CycleModel:
    from harness.emulators.simulator.cycles.model import CycleModel

    return CycleModel.of(board)


def cycles_per_instruction(board: Board, graph: Graph, form: str) -> float:
    """Of a network of one layer in that form, modelled, without what instructions wait for memory."""
    with tempfile.TemporaryDirectory(prefix="harness-kernel-") as folder:
        core = _core(board, _generated(graph, board.core, form), Path(folder))
    given, _ = core.call("network_input")
    core.write(given, serialize_input(graph, _input(graph)))
    return core.cycles_per_instruction("network_infer", 0)


def _ours(board: Board, shape: LayerShape, graph: Graph, form: str) -> Measurement:
    generated = _generated(graph, board.core, form)
    image = _input(graph)
    with tempfile.TemporaryDirectory(prefix="harness-kernel-") as folder:
        core = _core(board, generated, Path(folder))
    given, _ = core.call("network_input")
    core.write(given, serialize_input(graph, image))
    before = core.cycles
    _, instructions = core.call("network_infer", 0)
    cycles = core.cycles - before
    result, _ = core.call("network_output")
    output = parse_output(graph, core.read(result, generated.output_bytes))
    layer = generated.layers[0]
    inputs = generated.input_bytes * len(graph.layers[0].inputs)
    return _measurement(
        shape,
        graph,
        form=layer.form,
        instructions=instructions,
        cycles=cycles,
        code=core.sizes.code + core.sizes.constants - layer.weight_bytes,
        constants=layer.weight_bytes,
        scratch=layer.activation_bytes - inputs - generated.output_bytes,
        exact=bool(np.array_equal(output, _expected(graph, image))),
    )


def _library(board: Board, shape: LayerShape, graph: Graph) -> Measurement:
    library = baseline.library(board.core)
    image = _input(graph)
    with tempfile.TemporaryDirectory(prefix="harness-kernel-") as name:
        folder = Path(name)
        archives = []
        for path, text in library.headers.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        for path, content in library.archives.items():
            (folder / path).write_bytes(content)
            archives.append(folder / path)
        core = Core(
            board,
            {"layer.c": cmsis_nn.source(graph)},
            folder,
            includes=(folder / "cmsis_nn",),
            libraries=archives,
            optimize=_CALLS,
            roots=cmsis_nn.ROOTS,
            model=_model(board),
        )
    given, _ = core.call("cmsis_nn_input")
    core.write(given, (image ^ 0x80).tobytes())
    before = core.cycles
    status, instructions = core.call("cmsis_nn_run")
    cycles = core.cycles - before
    result, _ = core.call("cmsis_nn_output")
    buffer, _ = core.call("cmsis_nn_buffer_bytes")
    expected = _expected(graph, image)
    output = (np.frombuffer(core.read(result, expected.size), np.uint8) ^ 0x80).reshape(expected.shape)
    layer = graph.layers[0]
    exact = bool(np.array_equal(output, expected)) if cmsis_nn.comparable(layer) else None
    return _measurement(
        shape,
        graph,
        form=CMSIS_NN,
        instructions=instructions,
        cycles=cycles,
        code=core.sizes.code,
        constants=core.sizes.constants,
        scratch=max(buffer, 0),
        exact=exact if status == 0 else False,
    )


def _measurement(shape: LayerShape, graph: Graph, **measured: Any) -> Measurement:
    return Measurement(
        network=shape.network,
        layer=shape.name,
        kind=shape.kind,
        count=shape.count,
        weight_bits=shape.weight_bits,
        symmetric=shape.symmetric,
        input_bits=shape.input_bits,
        output_bits=shape.output_bits,
        widths=shape.widths,
        macs=graph.macs(graph.layers[0]),
        **measured,
    )
