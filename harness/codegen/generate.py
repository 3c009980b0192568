"""Graph -> C that reads top to bottom like the network: one call per layer. Deterministic: same Graph, same text.

Operators say what they become (harness.ops); this module picks a form per layer, settles how tensors are stored, plans
their memory and fills in the templates. It compiles nothing.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import harness
from harness import boards
from harness.assets import firmware_dir
from harness.codegen import baselines, names
from harness.codegen.activations import Use, requests, scratch_name
from harness.codegen.choose import Choice, Prefer, Room, choose
from harness.codegen.pace import Pace
from harness.codegen.text import array_text, initialiser
from harness.errors import InputError, unknown_name
from harness.graph.graph import Graph, Tensor
from harness.graph.memory import Plan, plan
from harness.ops.base import Array, Operator, Shape
from harness.ops.linear import Linear
from harness.ops.lowering import (
    Form,
    Interleaving,
    Layout,
    Lowering,
    Site,
    Storage,
    Target,
    default_storage,
    image_rows,
)
from harness.ops.packing import WEIGHT_RANGES, pack_rows, unpack_rows

if TYPE_CHECKING:
    from jinja2 import Environment

    from harness.codegen.baselines import Baseline

# How forms are chosen: the fewest instructions, or the plain ones, which show what the others gain.
KERNELS = ("default", "plain")

# Bytes of code that interleaving two layers costs, about.
_INTERLEAVING_CODE = 150

# How often forms are chosen anew for what the choice before takes of memory.
_LEANER = 6

# What the kernels were measured with. Loops stay loops: otherwise GCC calls memset and memcpy of a C library.
OPTIMIZE = "-O2 -fno-tree-loop-distribute-patterns"

_CTYPES = {"uint8": "uint8_t", "int32": "int32_t", "float32": "float"}


@dataclass(frozen=True)
class GeneratedLayer:
    """One layer as generated. name: in the network; symbol: the stem of its names in C; form: its storage form.

    op: the operator's label. shape: of its output. macs: dense, of one inference. weight_bytes: all its constants.
    nonzeros: weights other than 0. activation_bytes: its input, its output and its scratch, as stored.
    layout: the order in which an observer sees its output.
    """

    index: int
    name: str
    symbol: str
    op: str
    form: str
    shape: Shape
    macs: int
    weight_bytes: int
    activation_bytes: int
    nonzeros: int = 0
    layout: Layout = Layout.HWC


@dataclass(frozen=True)
class Generated:
    """A network in C. files: text by file name; kernel_headers: what it includes from firmware/nn/, all of them.

    activation_bytes: the arena: every activation and scratch, input and output included. optimize: compiler flags that
    the kernels were measured with. libraries: static libraries for `core` that it has to be linked with, by file name.
    flash_bytes: constants and code, by estimate; None where forms were not chosen but belong to `kernels`. leaner:
    whether other forms were taken than those preferred, for want of room.
    """

    name: str
    variant: str
    core: str
    kernels: str
    files: Mapping[str, str]
    kernel_headers: tuple[str, ...]
    layers: tuple[GeneratedLayer, ...]
    activation_bytes: int
    input_bytes: int
    output_bytes: int
    optimize: str
    libraries: Mapping[str, bytes] = field(default_factory=dict)
    flash_bytes: int | None = None
    leaner: bool = False

    @property
    def contents(self) -> dict[str, str | bytes]:
        """Files and libraries: all that a build for the core reads beside the kernel headers."""
        return {**self.files, **self.libraries}


@dataclass(frozen=True, eq=False)
class _Placed:
    """A layer with its names, its form, its place and what it lowers to.

    inside: the next layer computes this one's rows in turns with its own, as its `interleaving` says; it has this one
    as its `leader`.
    """

    index: int
    layer: Operator
    symbol: str
    site: Site
    lowering: Lowering
    scratch: str | None
    form: Form[Any]
    leader: _Placed | None = None
    interleaving: Interleaving | None = None
    inside: bool = False


def generate(
    graph: Graph,
    *,
    variant: str,
    core: str,
    kernels: str = "default",
    prefer: Prefer = "balanced",
    forms: Mapping[str, str] | None = None,
    pace: Pace | None = None,
    room: Room | None = None,
    part: bool = False,
) -> Generated:
    """The network in C for `core` (as GCC's -mcpu names it).

    prefer: what counts where layers can be stored in several forms: bytes ("size"), instructions ("speed") or both.
    forms: the form of single layers, by the layer's name, against that preference. pace: what instructions cost on the
    board that it is for; without it, all cost the same. room: bytes of flash by estimate (flash_bytes) and of the arena
    (activation_bytes): where what is preferred takes more, the best that does not is taken, or what takes the least.
    part: whether this is a part of a network, whose ends may be packed; what it says of scores is then without meaning.
    InputError for an unknown `kernels`, `prefer`, layer or form, for a form that does not fit its layer, for a layer
    that cannot be expressed, and for parameters that are not finite.
    """
    for tensor in (graph.input_tensor, graph.output):
        if default_storage(tensor.dtype, tensor.bits).packed and not part:
            raise InputError(f"{graph.name}: its input and its output must have 8 bits or more, not {tensor.bits}")
    baseline = baselines.find(graph, kernels)
    if baseline is None and kernels not in KERNELS:
        raise unknown_name("kernels", kernels, (*KERNELS, *baselines.names()))
    for layer in graph.layers:
        _check_parameters(layer)
    sites = [default_site(graph, layer, Target(core)) for layer in graph.layers]
    choice, leaner = None, False
    if baseline is not None:
        placed = _lower(graph, sites, _given(graph, sites, baseline, kernels))
    else:

        def chosen(within: Room | None) -> Choice:
            return choose(graph, sites, kernels=kernels, prefer=prefer, overrides=forms or {}, pace=pace, room=within)

        preferred = chosen(None)
        choice, placed = _fitted(graph, sites, preferred, chosen, room or Room())
        leaner = not choice.same(preferred)
    memory = _plan(graph, placed)
    headers = _closure({entry.lowering.header for entry in placed})
    context = _context(graph, placed, memory, variant, core)
    environment = _environment()
    files = {
        name: environment.get_template(f"{name}.j2").render(context)
        for name in ("network.c", "network.h", "network_weights.h")
    }
    library = baseline.library(core) if baseline is not None and baseline.library is not None else None
    if library is not None:
        files |= library.headers
    return Generated(
        name=graph.name,
        variant=variant,
        core=core,
        kernels=kernels,
        files=files,
        kernel_headers=headers,
        layers=tuple(_record(graph, entry) for entry in placed),
        activation_bytes=memory.total,
        input_bytes=_tensor_bytes(graph.input_tensor),
        output_bytes=_tensor_bytes(graph.output),
        optimize=OPTIMIZE if baseline is None else baseline.optimize,
        libraries=library.archives if library is not None else {},
        flash_bytes=None if choice is None else choice.flash,
        leaner=leaner,
    )


def export(
    graph: Graph,
    *,
    variant: str,
    core: str,
    directory: Path,
    kernels: str = "default",
    prefer: Prefer = "balanced",
    forms: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Writes the network, its kernels and a README into `directory`, all or nothing; returns the files written.

    InputError when the directory has content or cannot be written.
    """
    generated = generate(graph, variant=variant, core=core, kernels=kernels, prefer=prefer, forms=forms)
    kernel_folder = firmware_dir() / "nn"
    contents = generated.contents
    contents |= {name: (kernel_folder / name).read_text() for name in generated.kernel_headers}
    contents["README.md"] = _readme(graph, generated)
    target = directory.absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{directory} is not an empty folder", hint="choose a new folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for name, text in contents.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(text.encode() if isinstance(text, str) else text)
            temporary.chmod(0o755)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(temporary)
            raise
    except OSError as error:
        raise InputError(
            f"cannot write {directory}: {error.strerror or error}", hint="choose a folder that can be written to"
        ) from error
    return tuple(target / name for name in sorted(contents))


# ---- tensors as bytes


def serialize_input(graph: Graph, image: Array) -> bytes:
    """One input (H, W, C) as the network reads it: channel fastest, uint8, packed, or little-endian float32."""
    tensor = graph.input_tensor
    if image.shape != tensor.shape:
        raise InputError(f"{graph.name} reads inputs of shape {tensor.shape}, not {image.shape}")
    if default_storage(tensor.dtype, tensor.bits).packed:
        return pack_rows(image.reshape(image_rows(tensor.shape)), tensor.bits).astype("<u4").tobytes()
    return image.astype(np.dtype(tensor.dtype).newbyteorder("<")).tobytes()


def parse_output(graph: Graph, data: bytes) -> Array:
    """The network's output tensor from its bytes, in its shape (without batch) and dtype."""
    tensor = graph.output
    if len(data) != _tensor_bytes(tensor):
        raise InputError(f"the output of {graph.name} has {_tensor_bytes(tensor)} bytes, not {len(data)}")
    if default_storage(tensor.dtype, tensor.bits).packed:
        rows, elements = image_rows(tensor.shape)
        words = np.frombuffer(data, "<u4").reshape(rows, -1)
        return unpack_rows(words, tensor.bits, elements).reshape(tensor.shape)
    values = np.frombuffer(data, np.dtype(tensor.dtype).newbyteorder("<")).astype(tensor.dtype)
    return values.reshape(tensor.shape)


def logical_bytes(graph: Graph, layer: Operator, value: Array, layout: Layout = Layout.HWC) -> bytes:
    """What the CRC-32 of a layer's output covers: uint8, or little-endian int32 or float32, in the tensor's layout.

    value: one sample, (H, W, C) or (C,).
    """
    tensor = graph.tensors[layer.output]
    if layout is Layout.HCW:
        value = value.swapaxes(-1, -2)
    return value.astype(np.dtype(tensor.dtype).newbyteorder("<")).tobytes()


def _tensor_bytes(tensor: Tensor) -> int:
    return default_storage(tensor.dtype, tensor.bits).size(tensor.shape)


# ---- choosing forms and storages


def _given(graph: Graph, sites: Sequence[Site], baseline: Baseline, kernels: str) -> tuple[Form[Any], ...]:
    """The forms of kernels that leave no choice."""
    forms = baseline.forms(graph)
    for layer, form, site in zip(graph.layers, forms, sites, strict=True):
        if reason := form.unsuited(layer, site):
            raise InputError(f"kernels {kernels} cannot run layer {layer.name}: {reason}")
    return tuple(forms)


def _fitted(
    graph: Graph, sites: Sequence[Site], choice: Choice, choose_within: Callable[[Room], Choice], room: Room
) -> tuple[Choice, tuple[_Placed, ...]]:
    """What is chosen and the layers in C: of `choice`, or of a leaner one where that takes more than `room`.

    Estimates know nothing of how tensors are stored in the end. So each turn goes by what the one before needed.
    """
    placed = _lower(graph, sites, choice.forms)
    within = Room(room.flash)
    for _ in range(_LEANER):
        spare = None if room.ram is None else room.ram - _plan(graph, placed).total
        if (spare is None or spare >= 0) and (room.flash is None or choice.flash <= room.flash):
            break
        if spare is not None:
            within = Room(room.flash, choice.ram + spare if within.ram is None else min(within.ram, choice.ram + spare))
        leaner = choose_within(within)
        if leaner.same(choice):
            break
        choice, placed = leaner, _lower(graph, sites, leaner.forms)
    return choice, placed


def _lower(graph: Graph, sites: Sequence[Site], forms: Sequence[Form[Any]]) -> tuple[_Placed, ...]:
    """How every tensor is stored, then the layers in C."""
    storages = _storages(graph, forms, sites)
    layouts = _layouts(graph, forms, sites)
    symbols = names.identifiers(layer.name for layer in graph.layers)
    placed = []
    for index, (layer, form, symbol) in enumerate(zip(graph.layers, forms, symbols, strict=True)):
        default = sites[index]
        site = dataclasses.replace(
            default,
            input=storages[layer.inputs[0]],
            output=storages[layer.output],
            input_layout=layouts[layer.inputs[0]],
            output_layout=layouts[layer.output],
            second_input=storages[layer.inputs[1]] if len(layer.inputs) > 1 else None,
        )
        lowering = form.lower(_in_stored_order(layer, site), site)
        scratch = scratch_name(index) if lowering.scratch_bytes else None
        placed.append(_Placed(index, layer, symbol, site, lowering, scratch, form))
    return _interleave(graph, tuple(placed))


def _interleave(graph: Graph, placed: tuple[_Placed, ...]) -> tuple[_Placed, ...]:
    """The layers, pairs of them computed in turns where that saves memory worth the code that it takes."""
    for index in range(len(placed) - 1):
        one, two = placed[index], placed[index + 1]
        readers = [entry for entry in placed if one.layer.output in entry.layer.inputs]
        if one.leader is not None or readers != [two]:
            continue
        pair = one.form.interleaved(one.layer, one.site, two.form, two.layer, two.site)
        if pair is None:
            continue
        lowering = one.form.lower(one.layer, dataclasses.replace(one.site, output_margin=pair.margin))
        inside = dataclasses.replace(one, lowering=lowering, scratch=None, inside=True)
        outside = dataclasses.replace(two, leader=inside, interleaving=pair, scratch=scratch_name(two.index))
        changed = (*placed[:index], inside, outside, *placed[index + 2 :])
        if _plan(graph, changed).total + _INTERLEAVING_CODE < _plan(graph, placed).total:
            placed = changed
    return placed


def _check_parameters(layer: Operator) -> None:
    for parameter, values in layer.parameters.items():
        if not np.isfinite(values).all():
            raise InputError(f"layer {layer.name}: its {parameter} holds values that are not finite")
    bits, weight = getattr(layer, "weight_bits", 8), layer.parameters.get("weight")
    if bits != 8 and weight is not None:
        lowest, highest = WEIGHT_RANGES[bits]
        if weight.min(initial=0) < lowest or weight.max(initial=0) > highest:
            raise InputError(f"layer {layer.name}: its weights do not fit {bits} bits")
    if (
        "shift" in layer.parameters
        and not 1 <= layer.parameters["shift"].min() <= layer.parameters["shift"].max() <= 62
    ):
        raise InputError(f"layer {layer.name}: its scales want shifts outside 1 to 62")


def default_site(graph: Graph, layer: Operator, target: Target) -> Site:
    """Where `layer` stands, with every tensor stored as is usual for its type and width."""
    inputs, result = [graph.tensors[name] for name in layer.inputs], graph.tensors[layer.output]
    stored = [default_storage(tensor.dtype, tensor.bits) for tensor in inputs]
    return Site(
        target,
        inputs[0].shape,
        result.shape,
        stored[0],
        default_storage(result.dtype, result.bits),
        second_input=stored[1] if len(stored) > 1 else None,
    )


def _storages(graph: Graph, forms: Sequence[Form[Any]], sites: Sequence[Site]) -> dict[str, Storage]:
    """How every tensor is stored: as all its readers wish where its writer can, else the default of its dtype.

    The network's input and output keep the default: others read and write them.
    """
    storages = {tensor.name: default_storage(tensor.dtype, tensor.bits) for tensor in graph.tensors.values()}
    for layer, form, site in zip(graph.layers, forms, sites, strict=True):
        if layer.output == graph.output.name:
            continue
        wishes = {
            reader_form.reads(reader, dataclasses.replace(reader_site, input=storages[layer.output]))
            for reader, reader_form, reader_site in zip(graph.layers, forms, sites, strict=True)
            if layer.output in reader.inputs
        }
        if len(wishes) == 1 and wishes <= form.writes(layer, site):
            storages[layer.output] = wishes.pop()
    return storages


def _layouts(graph: Graph, forms: Sequence[Form[Any]], sites: Sequence[Site]) -> dict[str, Layout]:
    """The layout of every tensor: as all its readers wish where its writer can, else HWC.

    Linear layers have no wish: their columns are stored in the order in which the input lies. The network's input and
    output are HWC: others write and read them.
    """
    layouts = dict.fromkeys(graph.tensors, Layout.HWC)
    for layer, form, site in zip(graph.layers, forms, sites, strict=True):
        wishes = {
            reader_form.reads_layout(reader, reader_site)
            for reader, reader_form, reader_site in zip(graph.layers, forms, sites, strict=True)
            if layer.output in reader.inputs and not isinstance(reader, Linear)
        }
        if len(wishes) == 1 and wishes <= form.writes_layouts(layer, site) and layer.output != graph.output.name:
            layouts[layer.output] = wishes.pop()
    return layouts


def _in_stored_order(layer: Operator, site: Site) -> Operator:
    """The layer, or a linear layer with its columns in the order in which its input lies in memory."""
    if not isinstance(layer, Linear) or site.input_layout is Layout.HWC:
        return layer
    weight = layer.weight.reshape(-1, *site.input_shape).swapaxes(-1, -2)
    return dataclasses.replace(layer, weight=np.ascontiguousarray(weight).reshape(layer.weight.shape))


def _plan(graph: Graph, placed: tuple[_Placed, ...]) -> Plan:
    """One arena for all tensors and scratch."""
    return plan(requests(graph, [_use(entry) for entry in placed if not entry.inside]))


def _use(entry: _Placed) -> Use:
    first, pair = entry.leader or entry, entry.interleaving
    return Use(
        entry.index,
        first.layer.inputs,
        entry.layer.output,
        entry.site.output,
        pair.scratch_bytes if pair else entry.lowering.scratch_bytes,
        first.lowering.overread,
        entry.lowering.overwrite,
        pair.overlap if pair else entry.lowering.overlap,
    )


def _record(graph: Graph, entry: _Placed) -> GeneratedLayer:
    site = entry.site
    use = _use(entry)
    # What lies between interleaved layers is nowhere but in the second one's scratch.
    source = 0 if entry.leader else site.input.size(site.input_shape)
    source += site.second_input.size(site.input_shape) if site.second_input else 0
    result = 0 if entry.inside else site.output.size(site.output_shape)
    scratch = 0 if entry.inside else use.scratch_bytes
    return GeneratedLayer(
        index=entry.index,
        name=entry.layer.name,
        symbol=entry.symbol,
        op=entry.layer.label,
        form=entry.lowering.form,
        shape=site.output_shape,
        macs=graph.macs(entry.layer),
        weight_bytes=entry.lowering.weight_bytes,
        activation_bytes=source + result + scratch,
        nonzeros=_nonzeros(entry.layer),
        layout=site.output_layout,
    )


def _nonzeros(layer: Operator) -> int:
    """Weights other than 0."""
    weight = layer.parameters.get("weight")
    return 0 if weight is None else int(np.count_nonzero(weight))


# ---- text


def _context(graph: Graph, placed: tuple[_Placed, ...], memory: Plan, variant: str, core: str) -> dict[str, Any]:
    """What the templates fill in."""
    return {
        "front": _front(graph, variant, core),
        "name_literal": names.literal(graph.name),
        "variant_literal": names.literal(variant),
        "headers": sorted({entry.lowering.header for entry in placed}),
        "integer": graph.integer,
        "packed": any(entry.site.output.packed for entry in placed),
        "input": _tensor_context(graph.input_tensor, "pixel"),
        "output": _tensor_context(graph.output, "score"),
        "score": _score(graph.output),
        "arena": {
            "bytes": memory.total,
            "alignment": max(8, memory.alignment),
            "input": memory.offsets[graph.input],
            "output": memory.offsets[graph.output.name],
        },
        "sizes": _sizes(placed),
        "functions": list(_functions(placed).values()),
        "layers": [_layer_context(graph, entry, memory) for entry in placed],
        "constants": [_constant_context(entry, constant) for entry in placed for constant in entry.lowering.constants],
    }


def _sizes(placed: Sequence[_Placed]) -> dict[str, int]:
    """The macros that kernels take sizes from: the largest that any layer wants."""
    sizes: dict[str, int] = {}
    for entry in placed:
        for name, size in entry.lowering.sizes.items():
            sizes[name] = max(size, sizes.get(name, 0))
    return sizes


def _functions(placed: Sequence[_Placed]) -> dict[str, str]:
    """The functions that layers share, by name, in the order of their first use."""
    functions: dict[str, str] = {}
    for entry in placed:
        functions |= entry.lowering.functions
    return functions


def _front(graph: Graph, variant: str, core: str) -> dict[str, Any]:
    return {
        "title": f"{names.comment(graph.name)}, variant {names.comment(variant)}.",
        "lines": [
            f"Generated by harness {harness.__version__} for {names.comment(core)} from the graph with SHA-256",
            graph.sha256() + ".",
            "Do not edit: `harness export` writes it again from the same network and the same variant.",
        ],
    }


def _tensor_context(tensor: Tensor, what: str) -> dict[str, Any]:
    if tensor.scale is None:
        meaning = "real numbers"
    elif tensor.zero_point:
        meaning = f"real value = {tensor.scale:.9g} * (q - {tensor.zero_point})"
    else:
        meaning = f"real value = {tensor.scale:.9g} * q"
    return {
        "shape": _shape_text(tensor.shape),
        "ctype": _CTYPES[tensor.dtype],
        "meaning": meaning,
        "bytes": _tensor_bytes(tensor),
        "elements": tensor.elements,
    }


def _score(output: Tensor) -> dict[str, int] | None:
    """1000 * scale as factor / 2**shift, with 31 bits of precision, for scores in integers. None for floats."""
    if output.dtype == "float32":
        return None
    milli = 1000.0 * (output.scale or 1.0)
    shift = 1
    while shift < 31 and round(milli * 2.0 ** (shift + 1)) < 2**31:
        shift += 1
    return {
        "factor": min(max(round(milli * 2.0**shift), 1), 2**31 - 1),
        "shift": shift,
        "zero_point": output.zero_point,
    }


def _layer_context(graph: Graph, entry: _Placed, memory: Plan) -> dict[str, Any]:
    site, lowering = entry.site, entry.lowering
    weights = lowering.weight_bytes
    nonzeros = _nonzeros(entry.layer)
    of_these = f" ({nonzeros:,} of {entry.layer.parameters['weight'].size:,} weights are not 0)" if nonzeros else ""
    shapes = f"{_shape_text(site.input_shape)} -> {_shape_text(site.output_shape)}"
    return {
        "index": entry.index,
        "number": entry.index + 1,
        "name": names.comment(entry.layer.name),
        "label": entry.layer.label,
        "shape": shapes,
        "macs": f"{graph.macs(entry.layer):,}",
        "title": f"{names.comment(entry.layer.name)}: {entry.layer.label}, {shapes}",
        "comment": [
            f"{graph.macs(entry.layer):,} MACs, form {lowering.form}, {weights:,} B of constants{of_these};",
            *([f"{lowering.note};"] if lowering.note else []),
            _where(graph, entry, memory),
        ],
        "symbol": entry.symbol,
        "source": lowering.source.replace("@", entry.symbol),
        "record": lowering.record,
        "initialiser": initialiser(lowering.fields, entry.symbol),
        "call": None if entry.inside else _call(entry, memory),
        "output_offset": memory.offsets.get(entry.layer.output),
        "elements": graph.tensors[entry.layer.output].elements,
        "rows": image_rows(site.output_shape) if site.output.packed else None,
        "storage": site.output.value,
    }


def _call(entry: _Placed, memory: Plan) -> dict[str, str]:
    """How a layer's function is declared, what it calls, and with what it is called."""
    first = entry.leader or entry
    buffers = [memory.offsets[name] for name in (*first.layer.inputs, entry.layer.output)]
    roles = ["input", "second", "output"] if len(first.layer.inputs) == 2 else ["input", "output"]
    if entry.scratch:
        buffers.append(memory.offsets[entry.scratch])
        roles.append("scratch")
    parameters = [f"{'const ' if role in ('input', 'second') else ''}void *{role}" for role in roles]
    arguments = [f"arena + {offset}" for offset in buffers]
    if entry.leader is None or entry.interleaving is None:
        record = f"&{entry.symbol}_layer"
        if entry.lowering.kernel in entry.lowering.functions:
            # A function that layers share needs none around it.
            return {"function": entry.lowering.kernel, "body": "", "arguments": ", ".join([record, *arguments])}
        return {
            "function": f"run_{entry.symbol}",
            "parameters": ", ".join(parameters),
            "body": f"{entry.lowering.kernel}({record}, {', '.join(roles)})",
            "arguments": ", ".join(arguments),
        }
    pair = entry.interleaving
    records = f"&{entry.leader.symbol}_layer, &{entry.symbol}_layer"
    return {
        "function": f"run_{entry.symbol}",
        "parameters": ", ".join(["nn_observer observer", *parameters]),
        "body": f"{pair.kernel}({records}, observer, {entry.leader.index}, {', '.join(roles)}, {pair.argument})",
        "arguments": ", ".join(["observer", *arguments]),
    }


def _where(graph: Graph, entry: _Placed, memory: Plan) -> str:
    """Where a layer's tensors lie, for readers."""
    result = entry.layer.output
    stored = (entry.site.input, entry.site.second_input or entry.site.input)
    sources = [_buffer(graph, *pair, memory) for pair in zip(entry.layer.inputs, stored, strict=False)]
    reads = f"reads {' and '.join(sources)}"
    writes = f"writes {_buffer(graph, result, entry.site.output, memory)}"
    if entry.inside:
        return f"{reads}; its rows go straight into the window of the next layer"
    scratch = f", scratch {_range(memory.offsets[entry.scratch], _use(entry).scratch_bytes)}" if entry.scratch else ""
    return f"takes turns with the layer before; {writes}{scratch}" if entry.leader else f"{reads}, {writes}{scratch}"


def _range(offset: int, size: int) -> str:
    return f"[{offset}, {offset + size})"


def _buffer(graph: Graph, name: str, storage: Storage, memory: Plan) -> str:
    if name not in memory.offsets:
        return names.comment(name)
    size = storage.size(graph.tensors[name].shape)
    return f"{names.comment(name)} at {_range(memory.offsets[name], size)}"


def _constant_context(entry: _Placed, constant: Any) -> dict[str, Any]:
    return {
        "layer": entry.symbol,
        "symbol": f"{entry.symbol}_{constant.name}",
        "ctype": constant.ctype,
        "count": constant.values.size,
        "alignment": f"_Alignas({constant.alignment}) " if constant.alignment else "",
        "comment": f"{entry.index + 1}. {names.comment(entry.layer.name)}: {constant.name}, {constant.bytes:,} B",
        "numbers": array_text(constant.values, constant.ctype),
    }


def _shape_text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _readme(graph: Graph, generated: Generated) -> str:
    flags = f"-mcpu={generated.core} -mthumb"
    if not graph.integer and generated.core in boards.DSP_CORES:
        flags += " -mfloat-abi=hard -mfpu=auto"
    layers = [
        {
            "number": layer.index + 1,
            "name": names.comment(layer.name).replace("|", "/"),
            "label": layer.op,
            "shape": _shape_text(layer.shape),
            "macs": f"{layer.macs:,}",
            "weights": f"{layer.weight_bytes:,}",
            "activations": f"{layer.activation_bytes:,}",
        }
        for layer in generated.layers
    ]
    context = {
        "front": _front(graph, generated.variant, generated.core),
        "integer": graph.integer,
        "compile_line": f"arm-none-eabi-gcc -std=c11 {flags} {generated.optimize} -c network.c",
        "libraries": sorted(generated.libraries),
        "input": _tensor_context(graph.input_tensor, "pixel"),
        "output": _tensor_context(graph.output, "score"),
        "arena": {"bytes": f"{generated.activation_bytes:,}"},
        "layers": layers,
    }
    return _environment().get_template("README.md.j2").render(context)


def _closure(headers: Iterable[str]) -> tuple[str, ...]:
    """The kernel headers with everything they include, sorted."""
    folder = firmware_dir() / "nn"
    found: set[str] = set()
    waiting = {*headers, "nn_observer.h", "nn_base.h"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= set(re.findall(r'^#include "(nn_\w+\.h)"', (folder / name).read_text(), re.MULTILINE)) - found
    return tuple(sorted(found))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).resolve().parent / "templates")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
