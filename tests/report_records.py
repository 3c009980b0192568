"""Made-up records, as many and as varied as a project gathers in months; figures are plausible, none was measured.

For tests of reports and sweeps alone: what they show must not depend on how long an emulator takes.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.results import store
from harness.results.record import Accuracy, Fingerprint, Flash, Footprint, Latency, Layer, Ram, Result

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)

# name, operator, output, MACs, parameters
_NETWORKS: dict[str, tuple[tuple[str, str, tuple[int, ...], int, int], ...]] = {
    "lenet5": (
        ("conv1", "conv2d+relu+max_pool2d", (14, 14, 6), 117_600, 156),
        ("conv2", "conv2d+relu+max_pool2d", (5, 5, 16), 240_000, 2_416),
        ("fc1", "linear+relu", (120,), 48_000, 48_120),
        ("fc2", "linear+relu", (84,), 10_080, 10_164),
        ("fc3", "linear", (10,), 840, 850),
    ),
    "cifar-net": (
        ("conv1", "conv2d+relu+max_pool2d", (16, 16, 32), 2_457_600, 2_432),
        ("conv2", "conv2d+relu+max_pool2d", (8, 8, 32), 6_553_600, 25_632),
        ("conv3", "conv2d+relu+max_pool2d", (4, 4, 64), 3_276_800, 51_264),
        ("fc1", "linear", (10,), 10_240, 10_250),
    ),
}
# bytes per parameter, instructions per MAC, accuracy lost
_VARIANTS = {"fp32": (4.0, 9.1, 0.0), "int8": (1.0, 4.6, 0.002), "deep": (0.22, 1.9, 0.004), "mixed": (0.5, 5.2, 0.006)}
_BOARDS = {"nucleo-f746": ("simulator", 1.0), "mps2-an386": ("qemu", 1.12), "mps2-an500": ("qemu", 1.01)}
_ACCURACY = {"lenet5": 0.989, "cifar-net": 0.738}


def fleet(count: int, *, seed: int = 0) -> list[Result]:
    """`count` records, oldest first: every network, variant and board in turn, and every eighth on the host engine."""
    random_ = random.Random(seed)
    configurations = [(model, variant, board) for model in _NETWORKS for variant in _VARIANTS for board in _BOARDS]
    records = []
    for number in range(count):
        model, variant, board = configurations[number % len(configurations)]
        # Now and then somebody makes a kernel faster.
        speed = 0.97 ** (number // len(configurations)) * random_.choice([1.0, 1.0, 1.0, 1.004])
        records.append(
            made_up(
                model,
                variant,
                board,
                host=number % 8 == 7,
                speed=speed,
                now=START + timedelta(hours=5 * number),
                commit=f"{number // len(configurations):040x}",
                random_=random_,
            )
        )
    return records


def made_up(
    model: str = "lenet5",
    variant: str = "int8",
    board: str = "nucleo-f746",
    *,
    host: bool = False,
    speed: float = 1.0,
    now: datetime = START,
    commit: str = "0" * 40,
    random_: random.Random | None = None,
    compiler: str = "arm-none-eabi-gcc 12.2.1",
) -> Result:
    """One such record. speed: factor on its latency."""
    random_ = random_ or random.Random(0)
    bytes_each, per_mac, lost = _VARIANTS[variant]
    engine, slowness = ("host", 0.05) if host else _BOARDS[board]
    network = _NETWORKS[model]
    ticks = [int(macs * per_mac * slowness * speed) for _, _, _, macs, _ in network]
    median = sum(ticks) + 120
    times = tuple(sorted(median + random_.randrange(0, median // 50) for _ in range(5))) if host else (median,) * 5
    median = times[2]
    weights = sum(int(parameters * bytes_each) for *_, parameters in network)
    kernels, activations = random_.randrange(2_800, 3_600), 4_704 if model == "lenet5" else 49_152
    exact = variant != "fp32"
    right = round((_ACCURACY[model] - lost) * 200) / 200
    return Result.new(
        model=model,
        variant=variant,
        board=board,
        engine=engine,
        kernels="default",
        seed=0,
        latency=Latency(
            clock="host" if host else "instructions",
            unit="ns" if host else "instructions",
            median=median,
            min=times[0],
            max=times[-1],
            repeats=len(times),
            hz=10**9 if host else None,
            us=median / 1000 if host else None,
            overhead=0 if host else 9,
            times=times if host else None,
        ),
        instructions=None if host else median,
        layers=[
            Layer(
                name=name,
                op=op,
                shape=shape,
                macs=macs,
                ticks=None if host else ticks[index],
                weight_bytes=int(parameters * bytes_each),
                activation_bytes=4_704,
                crc_device=f"{index:08x}",
                crc_reference=f"{index:08x}" if exact else None,
            )
            for index, (name, op, shape, macs, parameters) in enumerate(network)
        ],
        footprint=None
        if host
        else Footprint(
            flash=Flash(total=weights + kernels + 3_800, weights=weights, kernels=kernels, platform=3_800),
            ram=Ram(total=activations + 5_232, activations=activations, platform=1_136, stack=4_096),
            network=weights + kernels + activations,
            stack_used=612,
        ),
        accuracy=Accuracy(
            dataset="mnist" if model == "lenet5" else "cifar10",
            split="test",
            samples=200,
            metric="top1",
            device=right,
            host=right,
            fp32=_ACCURACY[model],
        ),
        bit_exact=True if exact else None,
        max_abs_error=None if exact else 1e-6,
        fingerprint=Fingerprint(
            git_commit=commit,
            git_dirty=False,
            sources_sha256="1" * 64,
            elf_sha256=None if host else "2" * 64,
            build_id=None if host else "0123456789abcdef",
            compiler=None if host else compiler,
            flags=() if host else ("-std=c11", "-mcpu=cortex-m7", "-O2"),
            optimize="-O2",
            board_manifest_sha256="3" * 64,
            emulator=None if host else engine,
            emulator_version=None if host else "1",
            packages={"torch": "2.13.0"},
            weights_sha256="4" * 64,
            dataset_sha256="5" * 64,
            seeds={"samples": 0},
        ),
        now=now,
    )


def keep(records: list[Result], root: Path) -> Path:
    """Writes the records into a results folder and returns it; without store.save's fsync, which costs milliseconds."""
    folder = root / store.RUNS
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        (folder / f"{record.id}.json").write_text(record.to_json())
    return root
