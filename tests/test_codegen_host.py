"""The generated C on this machine: built once, fast, and clear about what goes wrong."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from kernels_networks import lenet5, random_inputs

from harness.codegen.generate import Generated, generate, serialize_input
from harness.errors import BuildError, DeviceError, InputError
from harness.toolchain import compiler
from harness.toolchain.host import HostNetwork

pytestmark = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")


@pytest.fixture(scope="module")
def generated() -> Generated:
    return generate(lenet5(integer=True), variant="int8", core="cortex-m7")


def with_body(generated: Generated, statement: str) -> Generated:
    """The same network, with a statement at the start of every inference."""
    files = dict(generated.files)
    marker = "void network_infer(nn_observer observer)\n{\n"
    assert marker in files["network.c"]
    files["network.c"] = files["network.c"].replace(marker, f"{marker}    {statement}\n")
    return dataclasses.replace(generated, files=files)


def test_it_is_built_once_and_is_fast(generated: Generated, tmp_path: Path) -> None:
    graph = lenet5(integer=True)
    cache = tmp_path / "a cache"
    x = random_inputs(graph, 500)
    first = HostNetwork(generated, cache_dir=cache).infer([serialize_input(graph, image) for image in x])
    built = {path: path.stat().st_mtime_ns for path in (cache / "host").iterdir()}
    assert len(built) == 1
    start = time.monotonic()
    again = HostNetwork(generated, cache_dir=cache).infer(x)
    elapsed = time.monotonic() - start
    assert {path: path.stat().st_mtime_ns for path in (cache / "host").iterdir()} == built
    assert again.outputs == first.outputs
    assert np.array_equal(again.crcs, first.crcs)
    assert again.crcs.shape == (500, 5) and len(again.nanoseconds) == 500 and min(again.nanoseconds) > 0
    assert elapsed < 2  # 10,000 images take about 3 s on an idle machine; this is a twentieth of them


def test_inputs_of_another_length(generated: Generated, tmp_path: Path) -> None:
    network = HostNetwork(generated, cache_dir=tmp_path)
    with pytest.raises(InputError, match="must have 1024 bytes"):
        network.infer([bytes(1024), bytes(1023)])
    with pytest.raises(InputError, match="must have 1024 bytes"):
        network.infer([bytes(512), bytes(512)])
    assert network.infer([]).outputs == ()


def test_a_crash_is_named(generated: Generated, tmp_path: Path) -> None:
    network = HostNetwork(with_body(generated, "__builtin_trap();"), cache_dir=tmp_path)
    with pytest.raises(DeviceError, match=r"crashed on this machine: signal SIG(ILL|TRAP)"):
        network.infer([bytes(1024)])


def test_a_sanitizer_speaks(generated: Generated, tmp_path: Path) -> None:
    beyond = with_body(generated, "((volatile uint8_t *)arena)[sizeof arena + 1] = 1;")
    with pytest.raises(DeviceError, match=r"AddressSanitizer|insufficient space"):
        HostNetwork(beyond, cache_dir=tmp_path, sanitize=True).infer([bytes(1024)])


def test_a_deadline_holds(generated: Generated, tmp_path: Path) -> None:
    network = HostNetwork(with_body(generated, "for (volatile int i = 0; i < 1;) {}"), cache_dir=tmp_path)
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"did not finish in 0\.2 s"):
        network.infer([bytes(1024)], deadline_s=0.2)
    assert time.monotonic() - start < 5


def test_a_compiler_error_is_shown_with_its_log(generated: Generated, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"error: .*oops") as caught:
        HostNetwork(with_body(generated, "oops();"), cache_dir=tmp_path)
    assert caught.value.hint is not None
    log = Path(caught.value.hint.split(" is in ")[1])
    assert "oops" in log.read_text()
    assert [path for path in (tmp_path / "host").iterdir() if path != log] == []


def test_a_cache_that_cannot_be_written(generated: Generated, tmp_path: Path) -> None:
    (tmp_path / "host").write_text("a file where a folder should be")
    with pytest.raises(BuildError, match="cannot write to the cache"):
        HostNetwork(generated, cache_dir=tmp_path)
