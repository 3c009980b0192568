"""`harness verify` finds the first difference; `harness cache` removes what nobody used and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from report_cli import run
from report_records import keep, made_up
from test_cli_commands import refused

from harness import cache
from harness.results import store
from harness.results.record import Result, content_id
from harness.results.verification import steps


def altered(record: Result, **fingerprint: object) -> Result:
    changed = record.model_copy(update={"fingerprint": record.fingerprint.model_copy(update=fingerprint)})
    return changed.model_copy(update={"id": content_id(changed.plain())})


class TestSteps:
    def test_the_same_run_is_the_same(self) -> None:
        compared = list(steps(made_up(), made_up(commit="f" * 40)))
        assert all(step.same for step in compared)
        assert compared[-1].title == "figures and checksums"

    def test_causes_come_before_what_follows_from_them(self) -> None:
        other = altered(made_up(speed=2), compiler="gcc 14", elf_sha256="9" * 64)
        different = [step.field for step in steps(made_up(), other) if not step.same]
        assert different[:3] == ["fingerprint.compiler", "fingerprint.elf_sha256", "latency.median"]

    def test_what_the_record_does_not_have_is_not_asked(self) -> None:
        titles = {step.title for step in steps(made_up(host=True), made_up(host=True))}
        assert "firmware" not in titles and "weights" in titles


def test_a_run_is_verified_and_a_changed_record_is_found_out(tmp_path: Path) -> None:
    options = (
        "--board",
        "nucleo-f746",
        "--engine",
        "host",
        "-n",
        "2",
        "-r",
        "1",
        "--data",
        "digits8x8",
        "--results",
        str(tmp_path),
    )
    made = json.loads(run("run", "lenet5", *options, "--json").stdout)
    cached = sorted(path.name for path in (Path.home() / ".cache").glob("harness/host/*"))
    done = run("verify", made["id"], "--results", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["same"] is True
    assert sorted(path.name for path in (Path.home() / ".cache").glob("harness/host/*")) == cached
    assert len(list((tmp_path / "runs").iterdir())) == 1
    wrong = altered(store.get(made["id"], tmp_path), sources_sha256="0" * 64)
    keep([wrong], tmp_path)
    said = run("verify", wrong.id, "--results", str(tmp_path), "-q")
    assert said.returncode == 1
    assert "the first difference is fingerprint.sources_sha256" in said.stderr
    assert "differs   generated sources: 0000000000000000..." in said.stdout


def test_a_network_of_ones_own_must_be_named(tmp_path: Path) -> None:
    record = made_up().model_copy(update={"model": "mine"})
    record = record.model_copy(update={"id": content_id(record.plain())})
    keep([record], tmp_path)
    assert "--model path/to/file.py:function" in refused(run("verify", record.id, "--results", str(tmp_path)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with an image from long ago, one of today, one that is being built, and a download."""
    long_ago = time.time() - 90 * 86_400
    for name, age in (("old", long_ago), ("new", time.time()), ("busy", long_ago)):
        image = tmp_path / "firmware" / name / "firmware.elf"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"\0" * 1000)
        os.utime(image, (age, age))
        (tmp_path / "firmware" / f"{name}.lock").touch()
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "images").write_bytes(b"\0" * 500)
    os.utime(tmp_path / "mnist" / "images", (long_ago, long_ago))
    return tmp_path


class TestCache:
    def test_shows_kinds_with_their_sizes(self, folder: Path) -> None:
        kinds = json.loads(run("cache", "--json", HARNESS_CACHE=str(folder)).stdout)["kinds"]
        assert {name: (told["entries"], told["bytes"]) for name, told in kinds.items()} == {
            "firmware": (3, 3000),
            "mnist": (1, 500),
        }

    def test_prunes_what_is_old_not_busy_and_not_downloaded(self, folder: Path) -> None:
        with (folder / "firmware" / "busy.lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            told = run("cache", "prune", "--dry-run", HARNESS_CACHE=str(folder))
            assert "would free 2 kB: 2 entries" in told.stdout
            done = run("cache", "prune", HARNESS_CACHE=str(folder))
        assert "freed 1 kB: 1 entries" in done.stdout and "in use" in done.stdout and "busy" in done.stdout
        left = sorted(path.name for path in (folder / "firmware").iterdir() if path.is_dir())
        assert left == ["busy", "new"] and (folder / "mnist" / "images").exists()

    def test_downloads_go_when_they_are_named(self, folder: Path) -> None:
        run("cache", "prune", "--kind", "mnist", HARNESS_CACHE=str(folder))
        assert not (folder / "mnist" / "images").exists() and (folder / "firmware" / "old").exists()
        assert "no kind" in refused(run("cache", "prune", "--kind", "nonsense", HARNESS_CACHE=str(folder)))

    def test_a_link_is_removed_and_not_followed(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        outside = tmp_path_factory.mktemp("outside")
        (outside / "precious").touch()
        (folder / "host").mkdir()
        (folder / "host" / "link").symlink_to(outside)
        assert cache.remove([entry for entry in cache.entries(folder) if entry.kind == "host"]) == []
        assert (outside / "precious").exists() and not (folder / "host" / "link").is_symlink()

    def test_no_cache_is_an_empty_one(self, tmp_path: Path) -> None:
        assert cache.entries(tmp_path / "none") == []
