"""The documentation's site is built without a warning, and its reference pages hold what the code holds."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from report_browser import needs_chromium, open_page

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    specification = importlib.util.spec_from_file_location("docs_reference", ROOT / "scripts" / "docs_reference.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_command_and_option_is_in_the_reference(reference: ModuleType) -> None:
    import typer.main

    from harness.cli.app import app

    text = reference.commands()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"## harness {name}\n" in text
        for option in command.params:
            if option.param_type_name == "option" and option.name != "help":
                assert f"`{option.opts[0]}`" in text
                assert option.help, f"harness {name} {option.opts[0]} has no help"
    for code in (0, 1, 2, 3, 4, 130):
        assert f"| {code} | " in text


def test_every_key_is_in_the_reference(reference: ModuleType) -> None:
    from harness.boards import Build, HarnessKeys, Manifest, QemuEngine
    from harness.pipeline import RunSpec
    from harness.results.record import Fingerprint, Result

    manifests = reference.manifests()
    for model in (Manifest, Build, HarnessKeys):
        assert all(f"| `{name}` | " in manifests for name in model.model_fields)
    assert all(f"| `{name}` | " in manifests for name in QemuEngine.model_fields)
    assert all(f"| `{field.alias or name}` | " in reference.record() for name, field in Result.model_fields.items())
    assert all(f"| `{name}` | " in reference.record() for name in Fingerprint.model_fields)
    assert all(f"| `{field.name}` | " in reference.plans() for field in dataclasses.fields(RunSpec))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="MkDocs Material is not installed")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text()
        assert 'src="http' not in text and "fonts.googleapis" not in text


@needs_chromium
def test_the_site_is_rendered_without_a_complaint(site: Path, tmp_path: Path) -> None:
    done = open_page(site / "reference" / "commands" / "index.html", tmp_path / "profile")
    assert "harness sweep" in done.dom
    # Searching needs a server; a file has none.
    assert [line for line in done.console if "search" not in line and "file://" not in line] == []
