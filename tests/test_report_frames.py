"""What belongs together in a report, what is newest, and what nothing beats."""

from __future__ import annotations

import itertools
import json
import time
from datetime import timedelta
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import START, fleet, made_up

from harness.errors import InputError
from harness.report import frames, tables, words
from harness.results import store
from harness.results.record import content_id


def test_the_newest_of_each_configuration_and_how_often_it_ran() -> None:
    records = [made_up(now=START + timedelta(days=day), speed=1 + day) for day in range(3)]
    records.append(made_up(variant="fp32"))
    newest = frames.latest(store.frame(sorted(records, key=lambda record: record.time)))
    assert list(newest["variant"]) == ["fp32", "int8"]
    assert list(newest["runs"]) == [1, 3]
    assert newest["id"].iloc[1] == records[2].id


def test_another_engine_is_another_configuration() -> None:
    newest = frames.latest(store.frame([made_up(), made_up(host=True)]))
    assert len(newest) == 2
    labels = [frames.label(row, among=newest) for _, row in newest.iterrows()]
    assert labels == ["int8 · nucleo-f746 · host", "int8 · nucleo-f746 · simulator"]


def test_clocks_and_compilers_are_never_in_one_group() -> None:
    records = [made_up(), made_up(host=True), made_up(compiler="arm-none-eabi-gcc 14.1")]
    for terms, rows in frames.groups(store.frame(records), frames.TERMS):
        assert rows["latency.clock"].nunique() == 1
        assert terms["latency.model_version"] is None
    assert sum(1 for _ in frames.groups(store.frame(records), frames.TERMS)) == 3


def test_selection_names_what_is_near() -> None:
    frame = store.frame([made_up()])
    assert len(frames.select(frame, models=["lenet5"])) == 1
    with pytest.raises(InputError) as caught:
        frames.select(frame, boards=["nucleo-f747"])
    assert "nucleo-f746" in str(caught.value.hint)


def test_layers_have_a_row_each() -> None:
    table = frames.layers(store.frame([made_up(), made_up(host=True)]))
    assert list(table["name"]) == ["conv1", "conv2", "fc1", "fc2", "fc3"] * 2
    assert table["ticks"].isna().sum() == 5
    assert len(frames.layers(store.frame([]))) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    rows = pandas.DataFrame(points, columns=["bytes", "accuracy"])
    front = frames.pareto(rows, ["bytes"], ["accuracy"])
    for (index, (size, right)), (_, other) in itertools.product(enumerate(points), enumerate(points)):
        if front[index]:
            assert not (other[0] <= size and other[1] >= right and other != (size, right))
    assert front.any()


def test_a_row_without_a_figure_is_not_on_the_front() -> None:
    rows = pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "b": [2.0, 1.0]})
    assert list(frames.pareto(rows, ["a", "b"])) == [True, False]


def test_the_front_has_three_figures_and_ends_at_a_clock() -> None:
    slow = made_up(speed=2)
    records = [made_up(), slow, made_up(variant="deep"), made_up(variant="fp32"), made_up(host=True)]
    best = list(frames.front(store.frame(records)))
    # int8 is as accurate as deep, and larger; fp32 is the most accurate; engine host has no bytes to be judged by.
    assert best == [False, False, True, True, False]


def test_the_flat_frame_survives_csv_and_parquet(tmp_path: Path) -> None:
    frame = store.frame(fleet(9))
    flat = frames.flat(frame)
    flat.to_parquet(tmp_path / "r.parquet")
    again = pandas.read_parquet(tmp_path / "r.parquet")
    pandas.testing.assert_frame_equal(again, flat, check_dtype=False)
    text = pandas.read_csv(tmp_path / "r.csv") if flat.to_csv(tmp_path / "r.csv", index=False) else None
    assert text is None
    assert list(pandas.read_csv(tmp_path / "r.csv")["latency.median"]) == list(frame["latency.median"])


def test_markdown_is_aligned_and_takes_nothing_from_names() -> None:
    frame = store.frame([made_up().model_copy(update={"board": "a|b<script>*"})])
    text = tables.markdown(tables.table(frames.latest(frame), tables.SUMMARY))
    head, rule, row = text.splitlines()
    assert len(head) == len(rule) == len(row)
    assert "a\\|b\\<script\\>\\*" in row


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(100, 101, "+1.00 %"), (100, 99, "-1.00 %"), (0, 5, ""), (None, 5, ""), (10, 125, "x 12.5"), (3, 3, "+0.00 %")],
)
def test_changes_in_words(before: int | None, after: int, text: str) -> None:
    assert words.change(before, after) == text


def test_sizes_in_words() -> None:
    assert [words.size(value) for value in (850, 63_392, 1_048_576, None)] == ["850 B", "63.4 kB", "1.05 MB", "-"]
    assert words.short(1_916_214) == "1.92 M"


@pytest.mark.slow
def test_ten_thousand_records_load_in_two_seconds(tmp_path: Path) -> None:
    template = made_up()
    raw = template.plain()
    folder = tmp_path / "runs"
    folder.mkdir()
    for number in range(10_000):
        moment = START + timedelta(minutes=number)
        raw["time"] = f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
        raw["id"] = content_id(raw)
        (folder / f"{raw['id']}.json").write_text(json.dumps(raw))
    taken = []
    for _ in range(3):
        started = time.process_time()
        frame = store.load(tmp_path)
        taken.append(time.process_time() - started)
    assert len(frame) == 10_000 and frame.attrs["damaged"] == {}
    # CPU time of the quickest: the limit is for a machine with nothing else to do.
    assert min(taken) < 2
