"""Finding compilers, and saying what to install when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.toolchain import compiler


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_finds_the_compilers_of_this_machine() -> None:
    arm, host = compiler.arm(), compiler.host()
    assert arm == compiler.find_arm() and host == compiler.find_host()
    assert arm.path.name == "arm-none-eabi-gcc" and arm.version[0].isdigit()
    assert arm.version in arm.identity


def test_says_how_to_get_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiler.find_arm() is None and compiler.find_host() is None
    with pytest.raises(InputError, match="arm-none-eabi-gcc is not on PATH") as caught:
        compiler.arm()
    assert "apt-get install gcc-arm-none-eabi" in (caught.value.hint or "")
    with pytest.raises(InputError, match="no C compiler"):
        compiler.host()


def test_notices_a_compiler_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "arm-none-eabi-gcc", 'case "$1" in -print*) echo libc.a;; *) echo 12.2.1;; esac')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler.find_arm() is None
    with pytest.raises(InputError, match="no C library") as caught:
        compiler.arm()
    assert caught.value.hint == "apt-get install libnewlib-arm-none-eabi"


def test_a_compiler_that_does_not_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "cc", "exit 1")
    program(tmp_path, "gcc", "echo gcc 1.2.3")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiler.host().path == tmp_path / "gcc"


def test_cc_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = program(tmp_path, "mine", "echo mine 1.2.3")
    monkeypatch.setenv("CC", str(mine))
    assert compiler.host().path == mine


def test_an_upgraded_compiler_is_asked_again(tmp_path: Path) -> None:
    path = program(tmp_path, "cc", "echo one")
    first = compiler.identify(path)
    path.write_text("#!/bin/sh\necho two, and longer\n")
    second = compiler.identify(path)
    assert first is not None and second is not None
    assert (first.identity, second.identity) == ("one", "two, and longer")
