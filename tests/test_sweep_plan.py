"""Which runs a plan is made of, which of them cannot be, and how a run is known again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.sweep import ledger, plan, specs
from harness.sweep.ledger import Entry

HOST = {"models": ["lenet5", "cifar-net"], "boards": ["nucleo-f746", "mps2-an386"], "engine": "host"}


def titles(made: plan.Plan) -> list[str]:
    return [job.title for job in made.jobs]


def test_the_cross_product_with_boards_fastest() -> None:
    made = plan.make({**HOST, "variants": ["int8", "fp32"]})
    assert len(made.jobs) == 8 and made.unfit == ()
    assert titles(made)[:3] == [
        "lenet5 int8 on nucleo-f746 (host)",
        "lenet5 int8 on mps2-an386 (host)",
        "lenet5 fp32 on nucleo-f746 (host)",
    ]
    assert len({job.key for job in made.jobs}) == 8


def test_any_option_may_be_a_list_and_a_value_counts_once() -> None:
    made = plan.make(
        {"model": "lenet5", "board": "nucleo-f746", "engine": "host", "seed": [0, 1, 1], "samples": [1, 2]}
    )
    assert [(job.spec.seed, job.spec.samples) for job in made.jobs] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_includes_take_what_is_single_and_excludes_take_away() -> None:
    made = plan.make(
        {
            **HOST,
            "samples": 3,
            "exclude": [{"model": "cifar-net", "board": "nucleo-f746"}],
            "include": [{"model": "lenet5", "board": "mps2-an500", "variant": "fp32"}],
        }
    )
    assert titles(made)[-1] == "lenet5 fp32 on mps2-an500 (host)"
    assert len(made.jobs) == 4
    assert {job.spec.samples for job in made.jobs} == {3}


def test_what_a_board_cannot_do_is_left_out_with_the_reason() -> None:
    made = plan.make({**HOST, "models": "lenet5", "engine": "qemu"})
    assert titles(made) == ["lenet5 int8 on mps2-an386 (qemu)"]
    assert [(unfit.spec.board, unfit.reason) for unfit in made.unfit] == [
        ("nucleo-f746", "board nucleo-f746 has no engine qemu")
    ]


def test_a_real_board_is_for_one_run_at_a_time() -> None:
    made = plan.make(
        {**HOST, "models": "lenet5", "boards": "nucleo-f746", "engine": ["hardware", "host"], "probe": "066A"}
    )
    assert [job.exclusive for job in made.jobs] == ["nucleo-f746 066A", None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["lenet"]}, "unknown model 'lenet'"),
        ({"boards": ["nucleo"]}, "unknown board"),
        ({"variants": ["int9"]}, "unknown variant"),
        ({"engine": "qemo"}, "unknown engine"),
        ({"kernels": "fast"}, "unknown kernels"),
        ({"bords": ["nucleo-f746"]}, "unknown option"),
        ({"samples": "many"}, "samples of the plan is 'many', which is not of type int"),
        ({"samples": True}, "not of type int"),
        ({"samples": []}, "empty list"),
        ({"model": "lenet5"}, "has model twice"),
        ({"models": []}, "empty list"),
        ({"weights": "missing.safetensors"}, "no file"),
        ({"exclude": [{"engine": "host"}]}, "nothing to run"),
        ({"exclude": {"engine": "host"}}, "[[exclude]]"),
        ({"seed": list(range(60_000))}, "240,000 runs"),
    ],
)
def test_a_slip_is_named_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    raw = {**HOST, **changes}
    if "model" in changes:
        raw = {"models": ["lenet5"], **raw}
    with pytest.raises(InputError) as caught:
        plan.make(raw)
    assert words in caught.value.message


def test_a_plan_without_boards_says_so() -> None:
    with pytest.raises(InputError, match="names no boards"):
        plan.make({"models": ["lenet5"]})


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        plan.read(tmp_path / "none.toml")
    (tmp_path / "p.toml").write_text("models = [")
    with pytest.raises(InputError, match="not TOML"):
        plan.read(tmp_path / "p.toml")


def test_files_lie_beside_the_plan_and_count_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("one")
    (tmp_path / "d.npz").write_bytes(b"1")
    (tmp_path / "p.toml").write_text(
        'model = "net.py:make"\nboard = "nucleo-f746"\nengine = "host"\ndata = "d.npz"\nweights = "d.npz"\n'
    )
    first = plan.read(tmp_path / "p.toml").jobs[0]
    assert first.spec.model == f"{tmp_path / 'net.py'}:make" and first.spec.data == tmp_path / "d.npz"
    assert first.title == "net int8 on nucleo-f746 (host)"
    assert plan.read(tmp_path / "p.toml").jobs[0].key == first.key
    (tmp_path / "net.py").write_text("two")
    second = plan.read(tmp_path / "p.toml").jobs[0]
    (tmp_path / "d.npz").write_bytes(b"2")
    third = plan.read(tmp_path / "p.toml").jobs[0]
    assert len({first.key, second.key, third.key}) == 3


def test_a_dataset_that_ships_is_named_and_is_no_file(tmp_path: Path) -> None:
    text = 'model = "lenet5"\nboard = "nucleo-f746"\nengine = "host"\ndata = "digits8x8"\n'
    (tmp_path / "p.toml").write_text(text)
    [job] = plan.read(tmp_path / "p.toml").jobs
    assert job.spec.data == Path("digits8x8") and plan.files(job.spec) == {}


def test_options_of_a_spec_come_back() -> None:
    spec = specs.from_options(
        {"model": "lenet5", "board": "nucleo-f746", "seed": 3, "data": "a b.npz"}, where="x", folder=Path("/f")
    )
    options = specs.to_options(spec)
    assert options == {"model": "lenet5", "board": "nucleo-f746", "seed": 3, "data": "/f/a b.npz"}
    assert specs.from_options(options, where="x") == spec
    assert {field.name for field in dataclasses.fields(spec)} == set(specs.fields())


class TestLedger:
    ENTRY = Entry(key="k" * 64, id=None, unfit="too large", seconds=1.5, cpu_seconds=1.0)

    def test_an_entry_comes_back(self, tmp_path: Path) -> None:
        assert ledger.find(self.ENTRY.key, tmp_path) is None
        ledger.write(self.ENTRY, tmp_path)
        assert ledger.find(self.ENTRY.key, tmp_path) == self.ENTRY

    def test_a_run_whose_record_is_gone_or_whose_entry_is_damaged_is_not_done(self, tmp_path: Path) -> None:
        ledger.write(self.ENTRY.model_copy(update={"id": "20260101-000000000-00000000"}), tmp_path)
        assert ledger.find(self.ENTRY.key, tmp_path) is None
        ledger.write(self.ENTRY, tmp_path)
        next((tmp_path / "sweeps").iterdir()).write_text("{")
        assert ledger.find(self.ENTRY.key, tmp_path) is None
