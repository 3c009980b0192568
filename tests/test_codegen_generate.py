"""Generated C: deterministic, readable, safe whatever names a network has, and complete when exported."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels_networks import lenet5, on_host, random_inputs, reference_crcs

from harness.codegen import names
from harness.codegen.generate import export, generate, logical_bytes, parse_output, serialize_input
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.linear import Linear
from harness.toolchain import compiler

HOSTILE = (
    "int",
    "a*/b",
    'x"y',
    "0",
    "Ä ö",
    "??/",
    "%s\\n",
    "network_infer",
    "a b",
    "a_b",
    "",
    "x" * 300,
    "/*",
    "-",
    "nn",
)


def renamed(graph: Graph, names: tuple[str, ...]) -> Graph:
    """The same network with other layer names."""
    layers = tuple(dataclasses.replace(layer, name=name) for layer, name in zip(graph.layers, names, strict=False))
    return build(names[0], graph.input_tensor, layers + graph.layers[len(layers) :], graph.tensors)


def small(outputs: int = 3) -> Graph:
    layer = Linear("fc", ("x",), "y", np.ones((outputs, 4), np.int8), np.zeros(outputs, np.int32))
    tensors = {"y": Tensor("y", (outputs,), "int32", 0.5, bits=32)}
    return build("small", Tensor("x", (4,), "uint8", 1.0), (layer,), tensors)


@pytest.mark.parametrize("integer", [True, False])
def test_the_same_graph_gives_the_same_text(integer: bool) -> None:
    one = generate(lenet5(integer=integer), variant="v", core="cortex-m7")
    assert one == generate(lenet5(integer=integer), variant="v", core="cortex-m7")
    for text in one.files.values():
        assert lenet5(integer=integer).sha256() in text
        assert text.endswith("\n")
        assert max(map(len, text.splitlines())) <= 130


def test_the_network_reads_like_the_network() -> None:
    generated = generate(lenet5(integer=True), variant="int8", core="cortex-m7")
    infer = generated.files["network.c"].split("void network_infer")[1].split("\n}\n")[0]
    assert re.findall(r"run_(\w+)\(", infer) == ["conv1", "conv2", "fc3", "fc4", "fc5"]
    assert "1. conv1: conv2d+relu+max_pool2d, 32x32x1 -> 14x14x6" in infer
    assert "117,600 MACs" in infer
    assert [layer.macs for layer in generated.layers] == [117600, 240000, 48000, 10080, 840]
    assert sum(layer.weight_bytes for layer in generated.layers) <= 63_600


def test_lenet5_activations() -> None:
    graph = lenet5(integer=False)
    assert generate(graph, variant="fp32", core="cortex-m7").activation_bytes == 8800
    assert generate(lenet5(integer=True), variant="int8", core="cortex-m7").activation_bytes <= 4400


@pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
def test_hostile_names_compile_and_change_nothing(tmp_path: Path) -> None:
    graph = renamed(lenet5(integer=True), HOSTILE[:5])
    x = random_inputs(graph, 2)
    for group in (HOSTILE[:5], HOSTILE[5:10], HOSTILE[10:]):
        hostile = renamed(graph, group)
        generated = generate(hostile, variant=group[1], core="cortex-m4")
        _, crcs = on_host(generated, hostile, x, tmp_path, sanitize=False)
        assert np.array_equal(crcs, reference_crcs(graph, x))


@given(st.lists(st.text(max_size=60), max_size=8))
def test_identifiers_are_identifiers(texts: list[str]) -> None:
    stems = names.identifiers(texts)
    assert len({stem.lower() for stem in stems}) == len(texts)
    assert all(re.fullmatch(r"[A-Za-z]\w*", stem, re.ASCII) and len(stem) < 64 for stem in stems)


@given(st.text(max_size=60))
def test_comments_and_literals_stay_inside(text: str) -> None:
    comment = names.comment(text)
    assert "*/" not in comment and "/*" not in comment and comment.isprintable()
    assert re.fullmatch(r'([^"\\?\n]|\\[0-7]{3})*', names.literal(text))


@pytest.mark.parametrize("integer", [True, False])
def test_an_export_compiles_by_itself(integer: bool, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    files = export(lenet5(integer=integer), variant="int8", core="cortex-m7", directory=folder)
    assert {path.name for path in files} >= {"network.c", "network.h", "network_weights.h", "README.md", "nn_base.h"}
    assert sorted(files) == sorted(folder.iterdir())
    compile_line = re.search(r"^    (arm-none-eabi-gcc .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert compile_line is not None
    commands = []
    if compiler.find_host() is not None:
        commands += [["cc", "-std=c11", "-c", "network.c"], ["cc", "-std=c11", "-O3", "-c", "network.c"]]
    if compiler.find_arm() is not None:
        arm = ["arm-none-eabi-gcc", "-std=c11", "-mthumb", "-c", "network.c"]
        commands += [compile_line[1].split()]
        commands += [[*arm, f"-mcpu={cpu}", level] for cpu, level in (("cortex-m0", "-Os"), ("cortex-m4", "-O0"))]
        commands += [[*arm, "-mcpu=cortex-m4", level] for level in ("-O1", "-O3", "-Os")]
        commands += [[*arm, "-mcpu=cortex-m33", "-mfloat-abi=hard", "-O2"]]
    for command in commands:
        ran = subprocess.run(
            [*command, "-Wall", "-Wextra", "-Werror", "-o", "x.o"], cwd=folder, timeout=60, check=False
        )
        assert ran.returncode == 0, command


def test_an_export_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        export(small(), variant="int8", core="cortex-m4", directory=taken)
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]

    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        export(small(), variant="int8", core="cortex-m4", directory=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_scores_are_thousandths(tmp_path: Path) -> None:
    """The output's scale 0.5 times 1000: one accumulator step is 500."""
    text = generate(small(), variant="int8", core="cortex-m4").files["network.c"]
    found = re.search(r"1000 \* scale = (\d+) / 2\^(\d+)", text)
    assert found is not None
    assert int(found[1]) / 2 ** int(found[2]) == 500


def test_bad_input() -> None:
    with pytest.raises(InputError, match="unknown kernels 'defualt'") as caught:
        generate(small(), variant="int8", core="cortex-m4", kernels="defualt")
    assert caught.value.hint is not None and "default" in caught.value.hint
    graph = lenet5(integer=False)
    graph.layers[1].parameters["weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"layer conv2: its weight .* not finite"):
        generate(graph, variant="fp32", core="cortex-m4")


def test_tensors_as_bytes() -> None:
    graph = small()
    assert serialize_input(graph, np.array([1, 2, 3, 255], np.uint8)) == b"\x01\x02\x03\xff"
    assert parse_output(graph, b"\x01\0\0\0\xff\xff\xff\xff\0\1\0\0").tolist() == [1, -1, 256]
    assert logical_bytes(graph, graph.layers[0], np.array([1, -1, 256])) == b"\x01\0\0\0\xff\xff\xff\xff\0\1\0\0"
    with pytest.raises(InputError, match=r"reads inputs of shape \(4,\)"):
        serialize_input(graph, np.zeros(5, np.uint8))
    with pytest.raises(InputError, match="has 12 bytes, not 11"):
        parse_output(graph, bytes(11))
