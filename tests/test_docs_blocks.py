"""Every code block of the documentation works: shells are run, files are written and read, in the order of the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))

# Pages whose commands are typed in a folder that exists already.
FOLDERS = {"tutorial.md": ROOT / "examples" / "own-network"}

_BLOCK = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)
_RUN = ("sh", "python")
_WRITTEN = ("toml", "json", "yaml")


@dataclass(frozen=True)
class Block:
    """A fenced block. title: the file that it is, for blocks that are files."""

    language: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(found["language"], found["title"], found["text"]) for found in _BLOCK.finditer(page.read_text())]


def test_no_block_escapes_the_test() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in (*_RUN, *_WRITTEN), f"{page.name}: a block of language '{block.language}'"
            assert (block.title is not None) == (block.language in _WRITTEN), f"{page.name}: {block.text}"
        assert page.read_text().count("```") == 2 * len(blocks(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("qemu-system-arm and arm-none-eabi-gcc are needed")
    folder = tmp_path / "reader"
    if page.name in FOLDERS:
        shutil.copytree(FOLDERS[page.name], folder, ignore=shutil.ignore_patterns("*.npz", "*.safetensors", "results"))
    else:
        folder.mkdir()
    tools = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if name != "HARNESS_RESULTS"}
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "200"}
    for block in blocks(page):
        if block.language in _WRITTEN:
            assert block.title is not None
            (folder / block.title).write_text(block.text)
            continue
        command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*command, block.text], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


def test_the_readme_and_the_docs_name_commands_that_exist() -> None:
    from harness.cli.app import app

    known = {command.name for command in app.registered_commands}
    for page in [*PAGES, ROOT / "README.md", ROOT / "examples" / "README.md"]:
        for name in re.findall(r"(?:^|`)harness ([a-z][a-z-]*)", page.read_text(), flags=re.MULTILINE):
            assert name in known, f"{page.name}: harness {name}"


def test_the_workflow_of_the_example_runs_commands_that_exist() -> None:
    import yaml

    path = ROOT / "examples" / "own-network" / ".github" / "workflows" / "harness.yml"
    workflow = yaml.safe_load(path.read_text())
    steps = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    gate = next(step for step in steps if "harness regress" in step)
    from harness.sweep import plan

    assert "--baseline baseline.json" in gate and (path.parents[2] / "baseline.json").is_file()
    assert any("gcc-arm-none-eabi" in step and "qemu-system-arm" in step for step in steps)
    with pytest.raises(Exception, match=r"weights\.safetensors"):
        plan.read(path.parents[2] / "plan.toml")
