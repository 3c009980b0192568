"""From a network's name to a Graph ready for code generation: loaded, traced and compressed, with its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np

from harness import data as datasets
from harness.codegen.choose import Prefer
from harness.data.base import Dataset
from harness.errors import InputError, unknown_name
from harness.files import cache_dir
from harness.graph import graph as graph_file
from harness.graph.graph import Graph
from harness.models import resolve
from harness.ops.base import Array
from harness.progress import Reporter, Silent
from harness.search.policy import Policy

VARIANTS = ("int8", "mixed", "fp32", "deep", "paper-a")

PREFERENCES: tuple[str, ...] = get_args(Prefer)

# Percentage points that variant deep may lose on validation data, unless asked otherwise.
ACCURACY_BUDGET = 0.3

# Images that calibrate the activations' scales; from the validation split, never from the test split.
CALIBRATION_IMAGES = 512

# Elements of the largest activation over all of these: of large images, fewer are used.
_CALIBRATION_ELEMENTS = 2**24


@dataclass(frozen=True)
class Compression:
    """How a network becomes small. All but the variant, the policy and its fine-tuning is for `deep`.

    accuracy_budget: percentage points that may be lost on validation data. sparsity: prunes this share of every layer
    instead of searching. prefer: size, speed or balanced. seed: of the search, or of the fine-tuning. policy: for
    `mixed`, and needed there. finetune: epochs of training under the policy; 0 leaves it at post-training quantisation.
    """

    variant: str = "int8"
    accuracy_budget: float = ACCURACY_BUDGET
    sparsity: float | None = None
    prefer: str = "balanced"
    seed: int = 0
    policy: Policy | None = None
    finetune: int = 0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("variant", self.variant, VARIANTS)
        if self.variant == "mixed" and self.policy is None:
            raise InputError(
                "variant mixed needs a policy", hint="--policy policy.json; harness search NETWORK finds one"
            )
        if self.variant != "mixed" and self.policy is not None:
            raise InputError(f"variant {self.variant} takes no policy", hint="add --variant mixed")
        if self.finetune < 0 or (self.finetune and self.variant != "mixed"):
            raise InputError(f"variant {self.variant} cannot be fine-tuned for {self.finetune} epochs")
        if self.prefer not in PREFERENCES:
            raise unknown_name("preference", self.prefer, PREFERENCES)

    @property
    def as_shipped(self) -> bool:
        """Whether these are the options that the catalogue's integers were made with."""
        if self.variant == "mixed":
            return False
        return self.variant != "deep" or self == Compression("deep", prefer=self.prefer)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network ready for code generation, with the data it is measured on.

    trained: False for random weights. bias_corrected: of variant mixed without fine-tuning, what was decided.
    """

    graph: Graph
    float_graph: Graph
    dataset: Dataset
    weights_sha256: str
    trained: bool = True
    bias_corrected: bool | None = None


def prepare(
    model: str,
    compression: Compression,
    *,
    weights: Path | None = None,
    data: Path | None = None,
    afresh: bool = False,
    reporter: Reporter | None = None,
) -> Prepared:
    """Loads, traces and compresses a network.

    The catalogue's integers are used where they are shipped, so that figures are equal on every machine; `afresh`
    compresses again instead.
    """
    reporter = reporter or Silent()
    source = resolve.source(model, weights)
    if not source.trained:
        if compression.variant in ("deep", "paper-a") or compression.finetune:
            raise _untrained(source.name)
        reporter.say(f"note: {source.name} ships without weights: they are random, and no accuracy is reported")
    dataset = resolve.dataset(source, data, reporter)
    if source.entry is not None and dataset.input_shape != source.entry.input_shape:
        raise InputError(
            f"{source.name} wants images of {source.entry.input_shape}, but the data has {dataset.input_shape}"
        )
    with reporter.stage(f"tracing {source.name}"):
        float_graph, weights_sha256 = resolve.float_graph(source, dataset.input_shape)
    if int(np.prod(float_graph.output.shape)) < dataset.classes:
        raise InputError(
            f"{source.name} has {float_graph.output.shape[-1]} outputs, but the data has {dataset.classes} classes"
        )
    # A dataset of the catalogue may be named; the integers belong to the weights, not to what they are measured on.
    own_data = data is not None and str(data) not in datasets.names()
    graph, bias_corrected = None, None
    if compression.as_shipped and not (own_data or afresh):
        graph = artefact(source, compression.variant, weights_sha256)
    if graph is None:
        graph, bias_corrected = _compressed(source, float_graph, dataset, compression, reporter)
    return Prepared(graph, float_graph, dataset, weights_sha256, source.trained, bias_corrected)


def compress(
    model: str, compression: Compression, *, weights: Path | None, data: Path | None, reporter: Reporter
) -> tuple[Prepared, float, float]:
    """Compresses afresh; returns the network and the test accuracy of its integers and of the float network."""
    prepared = prepare(model, compression, weights=weights, data=data, afresh=True, reporter=reporter)
    if not prepared.trained:
        raise _untrained(model)
    test = prepared.dataset.test
    with reporter.stage("test accuracy"):
        integers = prepared.graph.infer(quantize_input(prepared.graph, prepared.dataset, test.x)).argmax(axis=1)
        floats = prepared.float_graph.infer(prepared.dataset.network_input(test.x)).argmax(axis=1)
    return prepared, top1(integers, test.y), top1(floats, test.y)


def artefact_path(model: str, variant: str) -> Path:
    """Where the catalogue's integers of a variant lie (whether or not they are shipped)."""
    return Path(resolve.__file__).parent / "weights" / f"{model}-{variant}.safetensors"


def artefact(source: resolve.Source, variant: str, weights_sha256: str) -> Graph | None:
    """The shipped integers, when they were made from exactly these weights."""
    if source.entry is None or not artefact_path(source.name, variant).exists():
        return None
    graph, metadata = graph_file.load(artefact_path(source.name, variant))
    return graph if metadata.get("weights_sha256") == weights_sha256 else None


def quantize_input(graph: Graph, dataset: Dataset, x: Array) -> Array:
    """The samples as the graph reads them: float32, or uint8 under the input tensor's scale."""
    tensor = graph.input_tensor
    if tensor.dtype == "float32":
        return dataset.network_input(x)
    if x.dtype == np.uint8:
        return x
    assert tensor.scale is not None
    quantized: Array = np.clip(np.rint(x / tensor.scale) + tensor.zero_point, 0, 2**tensor.bits - 1).astype(np.uint8)
    return quantized


def top1(classes: Array, labels: Array) -> float:
    return float((classes == labels).mean())


def _untrained(model: str) -> InputError:
    return InputError(
        f"model {model} ships without weights, and what is chosen by accuracy cannot be chosen on random ones",
        hint=f"harness train {model}, then --weights",
    )


def _compressed(
    source: resolve.Source, float_graph: Graph, dataset: Dataset, compression: Compression, reporter: Reporter
) -> tuple[Graph, bool | None]:
    """The network, and of a quantised policy whether its biases are corrected."""
    if compression.variant == "fp32":
        return float_graph, None
    if compression.variant == "paper-a":
        from harness.reproduce import paper_a

        return paper_a.compress(float_graph, dataset, reporter=reporter).graph, None
    if compression.variant == "deep":
        return _searched(float_graph, dataset, compression, reporter), None
    if compression.finetune:
        return _finetuned(source, float_graph, dataset, compression, reporter), None
    from harness.compress.quantize import Quantizer

    with reporter.stage(f"quantising {float_graph.name}") as advance:
        largest = max(tensor.elements for tensor in float_graph.tensors.values())
        count = min(CALIBRATION_IMAGES, max(1, _CALIBRATION_ELEMENTS // largest))
        images = dataset.network_input(dataset.validation.x[:count])
        quantizer = Quantizer(float_graph, images, dataset.input_scale, dataset.input_zero_point or 0, progress=advance)
        corrected = quantizer.corrects(compression.policy)
        graph = quantizer.quantize(compression.policy, corrected=corrected)
    return graph, None if compression.policy is None else corrected


def _finetuned(
    source: resolve.Source, float_graph: Graph, dataset: Dataset, compression: Compression, reporter: Reporter
) -> Graph:
    from harness.compress.finetune import finetune

    assert compression.policy is not None
    reporter.say(
        f"fine-tuning {float_graph.name} for {compression.finetune} epochs on {dataset.name}; minutes, and an "
        "interrupted training goes on where it stopped"
    )
    with reporter.stage(f"fine-tuning {float_graph.name}") as advance:
        result = finetune(
            float_graph,
            dataset,
            compression.policy,
            epochs=compression.finetune,
            seed=compression.seed,
            norms=resolve.batch_norms(source, dataset.input_shape),
            recipe=None if source.entry is None else source.entry.recipe,
            cache_dir=cache_dir(),
            progress=advance,
        )
    for note in result.notes:
        reporter.say(f"note: {note}")
    start, best = result.history[0], result.best
    reporter.say(
        f"validation accuracy {start.validation_accuracy:.2%} before, {best.validation_accuracy:.2%} after epoch "
        f"{best.number}"
    )
    return result.graph


def _searched(float_graph: Graph, dataset: Dataset, compression: Compression, reporter: Reporter) -> Graph:
    from harness.compress.deep import search

    reporter.say(
        f"deep: searching sparsity and levels of {float_graph.name} on {dataset.name}'s validation split; "
        "minutes, and an interrupted search goes on where it stopped"
    )
    with reporter.stage(f"compressing {float_graph.name}") as advance:
        report = search.compress(
            float_graph,
            dataset,
            accuracy_budget=compression.accuracy_budget,
            sparsity=compression.sparsity,
            seed=compression.seed,
            prefer=cast("Prefer", compression.prefer),
            cache_dir=cache_dir(),
            progress=lambda fraction, text: advance(fraction),
        )
    return report.graph
