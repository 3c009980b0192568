"""Building with the real PlatformIO: the cache, equal bytes everywhere, and errors that say what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from firmware_images import NETWORK, network_files, shared_cache, tiny

import harness.toolchain.platformio as platformio
from harness import boards
from harness.assets import boards_dir, firmware_dir
from harness.boards import Board
from harness.errors import BuildError, InputError
from harness.toolchain.platformio import build

AN500 = boards.load("mps2-an500")
INCLUDE = '#include "network.h"\n'

# Builds the little network in a process of its own: arguments are the cache and a number that goes into the sources.
CHILD = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(NETWORK.parent)!r})
from firmware_images import tiny
from harness import boards
from harness.toolchain.platformio import build
firmware = build(tiny(defines={{"SALT": sys.argv[2]}}), boards.load("mps2-an500"), cache_dir=Path(sys.argv[1]))
print(firmware.cached, firmware.fingerprint["elf_sha256"])
"""


@pytest.fixture(scope="module")
def cache() -> Path:
    return shared_cache()


def smaller(board: Board, kind: str, length: int) -> Board:
    """The board with `length` bytes in its region of that kind."""
    memory = tuple(
        region.model_copy(update={"length": length}) if region.kind == kind else region for region in board.memory
    )
    return board.model_copy(update={"memory": memory})


def unfinished(cache: Path) -> list[Path]:
    return list((cache / "firmware").glob(".build-*"))


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names something in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


# ---- the cache


def test_builds_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    inputs = tiny(defines={"SALT": "once"})
    first = build(inputs, AN500, cache_dir=cache, progress=told.append)
    assert not first.cached and told == ["compiling tiny for mps2-an500"]
    assert first.elf.read_bytes()[:4] == b"\x7fELF" and first.map.is_file()
    assert re.fullmatch(r"[0-9a-f]{16}", first.build_id)
    assert first.build_id.encode() in first.elf.read_bytes()
    assert first.fingerprint["key"].startswith(first.build_id)
    assert first.fingerprint["manifest_sha256"] == AN500.manifest_sha256
    assert first.fingerprint["compiler"].startswith("arm-none-eabi-gcc")
    assert {"-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-O2", "-Werror"} <= set(first.fingerprint["flags"])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a hit must start no process")

    monkeypatch.setattr(platformio.subprocess, "Popen", refuse)
    second = build(inputs, AN500, cache_dir=cache)
    assert second.cached
    assert (second.elf, second.footprint, second.fingerprint) == (first.elf, first.footprint, first.fingerprint)


def test_whatever_the_image_depends_on_makes_another(cache: Path) -> None:
    def build_id(board: Board = AN500, **options: object) -> str:
        return platformio._project(tiny(**options), board, platformio._toolchain("auto")).build_id

    variants = {
        "nothing": build_id(),
        "optimize": build_id(optimize="-O3"),
        "flags": build_id(extra_flags=("-funroll-loops",)),
        "defines": build_id(defines={"X": "1"}),
        "profile": build_id(profile="ic01"),
        "sources": build_id(files=network_files(**{"sum = fc_bias[o]": "sum = fc_bias[o] + 1"})),
        "library": build_id(files={**network_files(), "any/lib.a": b"one"}),
        "another library": build_id(files={**network_files(), "any/lib.a": b"two"}),
        "board": build_id(boards.load("mps2-an386")),
        "memory": build_id(smaller(AN500, "ram", 65536)),
        "stack": build_id(AN500.model_copy(update={"stack_bytes": 8192})),
        "port": build_id(AN500.model_copy(update={"defines": {"MPS2_TICK_HZ": "1000000u"}})),
    }
    assert len(set(variants.values())) == len(variants)
    assert build_id() == variants["nothing"]


def test_only_kernels_that_are_included_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(firmware_dir(), copy)
    monkeypatch.setattr(platformio, "firmware_dir", lambda: copy)

    def build_id() -> str:
        return platformio._project(tiny(files=files), AN500, platformio._toolchain("auto")).build_id

    files = network_files(**{INCLUDE: INCLUDE + '#  include "nn_mine.h"\n'})
    (copy / "nn" / "deep").mkdir()
    (copy / "nn" / "nn_mine.h").write_text('#include "deep/outer.h"\n')
    (copy / "nn" / "deep" / "outer.h").write_text('#include "beside.h"\n#include "nn_inner.h"\n')
    (copy / "nn" / "deep" / "beside.h").write_text("/* one */\n")
    (copy / "nn" / "nn_inner.h").write_text("/* one */\n")
    first = build_id()
    (copy / "nn" / "nn_unused.h").write_text("/* one */\n")
    assert build_id() == first
    (copy / "nn" / "nn_inner.h").write_text("/* two */\n")
    second = build_id()
    (copy / "nn" / "deep" / "beside.h").write_text("/* two */\n")
    assert len({first, second, build_id()}) == 3


def test_flags_defines_and_profile_reach_the_image(cache: Path) -> None:
    code = f"{INCLUDE}#if SIZE != 3 || !defined(__OPTIMIZE_SIZE__)\n#error not defined\n#endif\n"
    code += '_Static_assert(sizeof TEXT == 6, "the text came through");\n'
    inputs = tiny(
        files=network_files(**{INCLUDE: code}),
        optimize="-Os -fno-tree-vectorize",
        extra_flags=("-fno-math-errno",),
        defines={"SIZE": "3", "TEXT": '"a (b)"'},
        profile="ic01",
    )
    board = AN500.model_copy(update={"defines": {"MPS2_TICK_HZ": "1000000u"}})
    firmware = build(inputs, board, cache_dir=cache)
    assert {"-Os", "-fno-tree-vectorize", "-fno-math-errno", "-DSIZE=3", '-DTEXT="a (b)"'} <= set(
        firmware.fingerprint["flags"]
    )
    assert b"\0ic01\0" in firmware.elf.read_bytes()
    log = (firmware.elf.parent / "build.log").read_text()
    assert [("-DMPS2_TICK_HZ" in line) for line in log.splitlines() if line.endswith("ports/mps2.c")] == [True]


def test_a_damaged_entry_is_built_again(cache: Path) -> None:
    inputs = tiny(defines={"SALT": "damaged"})
    first = build(inputs, AN500, cache_dir=cache)
    original = first.elf.read_bytes()
    first.elf.write_bytes(original[:-1])
    again = build(inputs, AN500, cache_dir=cache)
    assert not again.cached
    assert again.elf.read_bytes() == original


# ---- equal bytes everywhere


def test_the_same_bytes_from_another_place(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = build(tiny(), AN500, cache_dir=cache)
    elsewhere = tmp_path / "an other [place] ünder" / "firmware"
    shutil.copytree(firmware_dir(), elsewhere)
    for path in (elsewhere, *elsewhere.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in (elsewhere, *elsewhere.rglob("*"))}
    monkeypatch.setattr(platformio, "firmware_dir", lambda: elsewhere)
    there = build(tiny(), AN500, cache_dir=tmp_path / "ca che ü")
    assert not there.cached
    assert there.elf.read_bytes() == here.elf.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in (elsewhere, *elsewhere.rglob("*"))} == before
    for path in (elsewhere, *elsewhere.rglob("*")):
        path.chmod(0o755)


def test_the_users_environment_changes_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = build(tiny(), AN500, cache_dir=cache)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "stdint.h").write_text("#error not this one\n")
    monkeypatch.setenv("CPATH", str(tmp_path / "include"))
    monkeypatch.setenv("PLATFORMIO_BUILD_FLAGS", "-DHARNESS_PROFILE=1")
    monkeypatch.setenv("PLATFORMIO_SRC_DIR", "nowhere")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    there = build(tiny(), AN500, cache_dir=tmp_path / "cache")
    assert there.elf.read_bytes() == here.elf.read_bytes()


def test_a_build_by_hand(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(firmware_dir(), tmp_path / "by hand" / "firmware", ignore=shutil.ignore_patterns(".pio"))
    shutil.copytree(boards_dir(), tmp_path / "by hand" / "boards")
    command = [
        *(sys.executable, "-m", "platformio", "run", "-e", AN500.id, "-d"),
        str(tmp_path / "by hand" / "firmware"),
    ]
    environment = platformio._environment(tmp_path / "core", tmp_path / "packages")
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0 and "it must be a generated network's folder" in refused.stderr
    (tmp_path / "a network").mkdir()
    for name, text in network_files().items():
        (tmp_path / "a network" / name).write_text(str(text))
    environment["NETWORK_DIR"] = str(tmp_path / "a network")
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    (elf,) = tmp_path.glob("by hand/build/platformio/build/*/firmware.elf")
    ours = build(tiny(), AN500, cache_dir=cache)
    assert elf.read_bytes().replace(b"0" * 16, ours.build_id.encode()) == ours.elf.read_bytes()


def test_the_registrys_toolchain_is_used_when_asked_for(cache: Path, tmp_path: Path) -> None:
    """With the package installed as PlatformIO does it, as tests have no network; its programs note their use."""
    package = tmp_path / "platformio" / "packages" / "toolchain-gccarmnoneeabi"
    (package / "bin").mkdir(parents=True)
    identity = {"name": "toolchain-gccarmnoneeabi", "version": "1.120301.0"}
    spec = {"owner": "platformio", "id": 1, "name": identity["name"], "requirements": None, "uri": None}
    (package / "package.json").write_text(json.dumps(identity))
    (package / ".piopm").write_text(json.dumps({"type": "tool", **identity, "spec": spec}))
    for tool in ("gcc", "gcc-ar", "gcc-ranlib", "size"):
        real = shutil.which(f"arm-none-eabi-{tool}")
        script = package / "bin" / f"arm-none-eabi-{tool}"
        script.write_text(f'#!/bin/sh\necho {tool} >> "{tmp_path}/used"\nexec {real} "$@"\n')
        script.chmod(0o755)
    firmware = build(tiny(), AN500, cache_dir=tmp_path, toolchain="registry")
    assert "gcc" in (tmp_path / "used").read_text().split()
    assert firmware.fingerprint["compiler"].startswith("arm-none-eabi-gcc")
    ours = build(tiny(), AN500, cache_dir=cache, toolchain="path")
    assert firmware.build_id != ours.build_id, "another toolchain is another image"
    assert firmware.footprint == ours.footprint


def test_builds_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    salts = ("one", "one", "two")
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), salt], stdout=subprocess.PIPE, text=True)
        for salt in salts
    ]
    answers = [child.communicate(timeout=120)[0].split() for child in children]
    assert all(child.returncode == 0 for child in children)
    assert sorted(answer[0] for answer in answers) == ["False", "False", "True"], "equal builds wait for each other"
    assert answers[0][1] == answers[1][1] != answers[2][1]
    assert not unfinished(tmp_path)


# ---- errors


def test_the_compilers_first_error(cache: Path) -> None:
    files = network_files(**{"int32_t sum = fc_bias[o];": "int32_t sum = fc_bias[o]\n    int32_t other;"})
    with pytest.raises(BuildError) as caught:
        build(tiny(files=files), AN500, cache_dir=cache)
    assert re.fullmatch(r"model/network\.c:\d+: expected .*", caught.value.message)
    log = re.fullmatch(r"the full log is (.+)", caught.value.hint or "")
    assert log and "expected" in Path(log[1]).read_text()
    assert caught.value.exit_code == 2
    assert not unfinished(cache)


def test_a_warning_is_an_error(cache: Path) -> None:
    files = network_files(**{INCLUDE: INCLUDE + "static int unused;\n"})
    with pytest.raises(BuildError, match=r"model/network\.c:\d+: .*unused.*-Werror"):
        build(tiny(files=files), AN500, cache_dir=cache)


def test_a_function_that_does_not_exist(cache: Path) -> None:
    files = network_files(**{INCLUDE: INCLUDE + "void missing(void);\n", "int32_t sum =": "missing();\n int32_t sum ="})
    with pytest.raises(BuildError, match="calls missing, which no library has"):
        build(tiny(files=files), AN500, cache_dir=cache)


def test_says_which_region_overflows_and_by_how_much(cache: Path) -> None:
    fits = build(tiny(), AN500, cache_dir=cache).footprint
    with pytest.raises(BuildError, match=r"does not fit mps2-an500: RAM \([\d,]+ bytes\) overflows by 12 bytes"):
        build(tiny(), smaller(AN500, "ram", fits.ram.total - 12), cache_dir=cache)
    with pytest.raises(BuildError, match=r"does not fit mps2-an500: FLASH \([\d,]+ bytes\) overflows by 100 bytes"):
        build(tiny(), smaller(AN500, "flash", fits.flash.total - 100), cache_dir=cache)
    exact = smaller(smaller(AN500, "ram", fits.ram.total), "flash", fits.flash.total)
    assert build(tiny(), exact, cache_dir=cache).footprint.ram.total == fits.ram.total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": {"network.c": ""}}, "lack network.c or network.h"),
        ({"files": {**network_files(), "../escape.c": ""}}, "outside its folder"),
        ({"files": {**network_files(), "/etc/escape.c": ""}}, "outside its folder"),
        ({"extra_flags": ("-DX=${HOME}",)}, "cannot go through PlatformIO"),
        ({"extra_flags": ("-DX=a ;b",)}, "cannot go through PlatformIO"),
        ({"defines": {"X": "a\nb"}}, "cannot go through PlatformIO"),
        ({"profile": "a b"}, "not a plain name"),
    ],
)
def test_inputs_that_cannot_be_built(cache: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        build(tiny(**options), AN500, cache_dir=cache)


def test_an_unknown_toolchain(cache: Path) -> None:
    with pytest.raises(InputError, match="unknown toolchain 'pth'") as caught:
        build(tiny(), AN500, cache_dir=cache, toolchain="pth")
    assert caught.value.hint == "did you mean path?"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the cache cannot be used") as caught:
        build(tiny(), AN500, cache_dir=tmp_path / "file")
    assert "HARNESS_CACHE" in (caught.value.hint or "")


def test_a_build_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformio, "DEADLINE_S", 0.2)
    with pytest.raises(BuildError, match="did not finish within 0 s"):
        build(tiny(), AN500, cache_dir=tmp_path)
    assert not unfinished(tmp_path) and not processes_in(tmp_path)


def test_another_process_that_never_finishes_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformio, "DEADLINE_S", 0.2)
    told: list[str] = []
    key = platformio._project(tiny(), AN500, platformio._toolchain("auto")).key
    with (
        platformio._lock(tmp_path / "firmware" / f"{key}.lock", told.append),
        pytest.raises(BuildError, match="another process"),
    ):
        build(tiny(), AN500, cache_dir=tmp_path, progress=told.append)
    assert told == ["waiting for another process that builds the same image"]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "one"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in (tmp_path / "firmware").glob(".build-*/build.log")):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode != 0 and b"KeyboardInterrupt" in errors
    assert not unfinished(tmp_path) and not processes_in(tmp_path)
    assert not list((tmp_path / "firmware").glob("*/firmware.elf"))
