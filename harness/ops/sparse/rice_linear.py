"""Fully connected layers as streams of bits (nn_sparse_rice.h)."""

from __future__ import annotations

from harness.ops.linear import Linear
from harness.ops.lowering import Cost, Lowering, Reference, Site
from harness.ops.sparse import rice
from harness.ops.sparse.common import (
    Finish,
    SparseForm,
    filters_of,
    finish_of,
    plain_storage,
    refuse_accumulators,
    refuse_common_finish,
    shared_function,
)

# Bytes of the kernel, and of a layer's record and call.
_KERNEL_CODE, _LAYER_CODE = 260, 42


class RiceLinear(SparseForm[Linear]):
    """Golomb-Rice coded gaps and Huffman coded weights, decoded on the fly."""

    name = "rice"

    def refusal(self, layer: Linear, site: Site) -> str | None:
        return (
            plain_storage(site)
            or refuse_common_finish(layer, site)
            or rice.refuse_weights(layer.weight)
            or refuse_accumulators(layer)
        )

    def cost(self, layer: Linear, site: Site) -> Cost:
        stream, finish = rice.encode(filters_of(layer)), finish_of(layer)
        flash = stream.bytes + finish.bytes
        instructions = 21 * len(stream.symbols) + 35 * len(layer.weight)
        return Cost(flash, 0, instructions, _LAYER_CODE, {self._kernel(finish): _KERNEL_CODE})

    def lower(self, layer: Linear, site: Site) -> Lowering:
        stream, finish = rice.encode(filters_of(layer)), finish_of(layer)
        kernel = self._kernel(finish)
        return Lowering(
            form=self.name,
            header="nn_sparse_rice.h",
            kernel=kernel,
            record="nn_sparse_rice_layer",
            fields={
                "rice": {"bits": Reference("bits"), "codes": Reference("codes"), "k": stream.k},
                "finish": finish.fields,
                "inputs": layer.weight.shape[1],
                "outputs": layer.weight.shape[0],
            },
            constants=(*stream.constants, *finish.constants),
            functions={
                kernel: shared_function(
                    kernel,
                    "const nn_sparse_rice_layer *layer, const void *input, void *output",
                    f"nn_sparse_rice_linear(layer, input, output, {finish.kind});",
                )
            },
        )

    def _kernel(self, finish: Finish) -> str:
        return f"sparse_rice_{finish.suffix}"
