"""A user's own network from path/to/file.py:function, and what is said when the file is not up to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from harness.errors import InputError
from harness.models.user import load_user_model

GOOD = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
    def forward(self, x):
        return self.fc(x)

def make_model():
    return Net()

def make_nothing():
    pass

def make_number():
    return 3

def make_error():
    size = 0
    return Net() if 1 // size else None

limit = 5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my nets" / "net.py"
    path.parent.mkdir()
    path.write_text(GOOD)
    return path


def test_network_is_made(file: Path) -> None:
    before = list(sys.path)
    network = load_user_model(f"{file}:make_model")
    assert network(torch.zeros(1, 4)).shape == (1, 3)
    assert sys.path == before


def test_class_will_do_for_a_function(file: Path) -> None:
    assert type(load_user_model(f"{file}:Net")).__name__ == "Net"


def test_modules_beside_the_file_can_be_imported(file: Path) -> None:
    (file.parent / "layers_beside_net.py").write_text("from torch import nn\ndef head(): return nn.Linear(2, 2)\n")
    (file.parent / "late_beside_net.py").write_text("SIZE = 2\n")
    file.write_text(
        "from layers_beside_net import head\ndef make_model():\n    import late_beside_net\n    return head()\n"
    )
    before = list(sys.path)
    assert isinstance(load_user_model(f"{file}:make_model"), torch.nn.Linear)
    assert sys.path == before


def test_files_of_one_name_are_told_apart(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "net.py"
    other.write_text("from torch import nn\ndef make_model(): return nn.ReLU()\n")
    first, second = load_user_model(f"{file}:make_model"), load_user_model(f"{other}:make_model")
    assert (type(first).__name__, type(second).__name__) == ("Net", "ReLU")


def test_network_can_be_exported(file: Path) -> None:
    network = load_user_model(f"{file}:make_model").eval()
    assert torch.export.export(network, (torch.zeros(1, 4),)).graph_signature.user_inputs


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("make_modle", "unknown function in .*net.py: 'make_modle'"),
        ("make_nothing", "make_nothing in .* returned NoneType, not torch.nn.Module"),
        ("make_number", "make_number in .* returned int"),
        ("make_error", "net.py, line 22: ZeroDivisionError"),
        ("limit", "limit in .* is int, not a function"),
    ],
)
def test_unusable_function_is_named(file: Path, function: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_user_model(f"{file}:{function}")


def test_unknown_function_lists_the_nearest(file: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_user_model(f"{file}:make_modle")
    assert "make_model" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def make_model(:\n", "net.py, line 1: invalid syntax"),
        ("import torch\n\nimport no_such_module\n", "net.py, line 3: ModuleNotFoundError: .*no_such_module"),
        ("import sys\nsys.exit(3)\n", "net.py, line 2: SystemExit: 3"),
        ("def make_model():\n    def inner():\n        raise KeyError('x')\n    return inner()\n", "line 3: KeyError"),
    ],
    ids=["syntax", "import", "exit", "nested"],
)
def test_error_in_the_file_names_its_line(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=complaint):
        load_user_model(f"{file}:make_model")


@pytest.mark.parametrize("specification", ["net.py", "net.py:", ":make_model", ""])
def test_specification_without_a_function(specification: str) -> None:
    with pytest.raises(InputError, match="names no function") as caught:
        load_user_model(specification)
    assert "path/to/file.py:function" in (caught.value.hint or "")


def test_missing_or_foreign_file(file: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py does not exist"):
        load_user_model(f"{file.parent}/none.py:make_model")
    with pytest.raises(InputError, match="does not exist"):
        load_user_model(f"{file.parent}:make_model")
    foreign = file.with_suffix(".txt")
    foreign.write_text("")
    with pytest.raises(InputError, match="not a Python file"):
        load_user_model(f"{foreign}:make_model")
