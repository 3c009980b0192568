"""CMSIS packs: found where pyOCD's pack manager keeps them, fetched where they are missing; with a made-up index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cmsis_pack_manager
import pytest

from harness import boards
from harness.errors import DeviceError, InputError
from harness.probe import packs

NUCLEO = boards.load("nucleo-f746")
INDEX = {
    "STM32F746ZGTx": {
        "name": "STM32F746ZGTx",
        "vendor": "STMicroelectronics:13",
        "from_pack": {"vendor": "Keil", "pack": "STM32F7xx_DFP", "version": "2.15.1", "url": "http://127.0.0.1:9/"},
    }
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """cache(index, downloads): a pack manager over a folder of its own, that reaches no network."""
    asked: list[str] = []

    def make(index: dict[str, Any], downloads: bool = True) -> list[str]:
        class Offline(cmsis_pack_manager.Cache):  # type: ignore[misc]  # it has no type information
            def cache_descriptors(self) -> None:
                asked.append("index")
                (tmp_path / "index.json").write_text(json.dumps(index))

            def download_pack_list(self, wanted: list[Any]) -> None:
                asked.append("pack")
                for pack in wanted if downloads else []:
                    path = tmp_path / pack.get_pack_name()
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"a pack")

        monkeypatch.setattr(packs, "_cache", lambda: Offline(True, False, str(tmp_path), str(tmp_path)))
        return asked

    return make


def test_a_pack_is_fetched_once(cache: Callable[..., list[str]]) -> None:
    asked = cache(INDEX)
    assert not packs.is_installed("stm32f746zgtx")
    said = packs.install(NUCLEO)
    assert said.startswith("installed ") and "STM32F7xx_DFP" in said
    assert asked == ["index", "pack"]
    assert packs.is_installed("stm32f746zgtx")
    assert packs.install(NUCLEO) == "the pack for stm32f746zgtx is installed"
    assert asked == ["index", "pack"]


def test_a_chip_that_no_pack_has(cache: Callable[..., list[str]]) -> None:
    cache({})
    with pytest.raises(DeviceError, match="no CMSIS pack has stm32f746zgtx") as caught:
        packs.install(NUCLEO)
    assert "pyocd.yaml" in (caught.value.hint or "")


def test_a_pack_that_does_not_arrive(cache: Callable[..., list[str]]) -> None:
    cache(INDEX, downloads=False)
    with pytest.raises(DeviceError, match="was not fetched"):
        packs.install(NUCLEO)


def test_chips_that_need_none(cache: Callable[..., list[str]]) -> None:
    asked = cache(INDEX)
    assert packs.install(boards.load("nrf52840-dk")) == "pyOCD programs nrf52840 without a pack"
    with pytest.raises(InputError, match="emulator only"):
        packs.install(boards.load("mps2-an386"))
    assert asked == []
