"""`harness doctor --install renode`: fetched from a server, checked, unpacked whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from report_cli import run

from harness.emulators import renode, renode_release
from harness.emulators.renode_release import Release
from harness.errors import DeviceError, HarnessError

Pack = Callable[..., Release]


def file(name: str, content: bytes = b"", mode: int = 0o644, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    for key, value in attributes.items():
        setattr(member, key, value)
    return member, content


PROGRAM = file("renode_1.16.1-dotnet_portable/renode", b"#!/bin/sh\necho Renode\n", 0o755)
GOOD = [
    file("renode_1.16.1-dotnet_portable", type=tarfile.DIRTYPE, mode=0o755),
    PROGRAM,
    file("renode_1.16.1-dotnet_portable/platforms/cpus/stm32f746.repl", b"flash: ..."),
    file("renode_1.16.1-dotnet_portable/a link", type=tarfile.SYMTYPE, linkname="platforms/cpus"),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "the cache"))
    monkeypatch.delenv(renode.ENVIRONMENT, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def pack(tmp_path: Path) -> Iterator[Pack]:
    """pack(members): an archive of them on a web server of this machine."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def archive(members: list[tuple[tarfile.TarInfo, bytes]]) -> Release:
        path = folder / "renode.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for member, content in members:
                tar.addfile(member, io.BytesIO(content))
        return Release(
            "1.16.1",
            f"http://127.0.0.1:{server.server_address[1]}/renode.tar.gz",
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )

    yield archive
    server.shutdown()
    server.server_close()


def cached() -> list[str]:
    folder = renode_release.folder().parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_it_is_fetched_and_unpacked(pack: Pack) -> None:
    release = pack(GOOD)
    shares: list[float] = []
    program = renode_release.install(release, advance=shares.append)
    assert program == renode_release.installed_program(release)
    assert program.read_bytes() == PROGRAM[1]
    assert (program.parent / "a link" / "stm32f746.repl").read_text() == "flash: ..."
    assert program.stat().st_mode & 0o111
    assert not (program.parent / "platforms/cpus/stm32f746.repl").stat().st_mode & 0o111
    assert shares[-1] == 1.0
    assert cached() == [renode_release.folder(release).name]
    assert renode_release.install(release) == program  # what is there is left alone


def test_another_checksum_changes_nothing(pack: Pack) -> None:
    release = pack(GOOD)
    wrong = Release(release.version, release.url, "0" * 64)
    with pytest.raises(DeviceError, match="its SHA-256 is") as caught:
        renode_release.install(wrong)
    assert "nothing was installed" in (caught.value.hint or "")
    assert cached() == []


@pytest.mark.parametrize(
    "member",
    [
        file("folder/../../outside", b"x"),
        file("/absolute/outside", b"x"),
        file("folder/..", type=tarfile.DIRTYPE),
        file("folder/link", type=tarfile.SYMTYPE, linkname="../../outside"),
        file("folder/link", type=tarfile.SYMTYPE, linkname="/etc"),
        file("folder/hard", type=tarfile.LNKTYPE, linkname="folder/../../outside"),
        file("folder/device", type=tarfile.CHRTYPE),
        file("folder/fifo", type=tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member[0].name} {member[0].linkname}",
)
def test_an_archive_that_leaves_its_folder_is_refused(
    pack: Pack, tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]
) -> None:
    (tmp_path / "outside").write_text("mine")
    with pytest.raises(DeviceError, match="the archive"):
        renode_release.install(pack([PROGRAM, member]))
    assert cached() == []
    assert (tmp_path / "outside").read_text() == "mine"


def test_writing_through_a_link_is_refused(pack: Pack, tmp_path: Path) -> None:
    members = [
        file("folder/here", type=tarfile.SYMTYPE, linkname="."),
        file("folder/up", type=tarfile.SYMTYPE, linkname="here/.."),
        file("folder/up/outside", b"x"),
    ]
    with pytest.raises(DeviceError, match="the archive"):
        renode_release.install(pack(members))
    assert cached() == []


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08broken"])
def test_a_file_that_is_no_archive_is_refused(pack: Pack, tmp_path: Path, content: bytes) -> None:
    release = pack(GOOD)
    (tmp_path / "server" / "renode.tar.gz").write_bytes(content)
    damaged = Release(release.version, release.url, hashlib.sha256(content).hexdigest())
    with pytest.raises(DeviceError, match=r"cannot be unpacked|no program"):
        renode_release.install(damaged)
    assert cached() == []


def test_an_archive_without_the_program_is_refused(pack: Pack) -> None:
    with pytest.raises(DeviceError, match="no program"):
        renode_release.install(pack([file("folder/readme", b"x")]))
    assert cached() == []


def test_a_server_that_does_not_answer(pack: Pack) -> None:
    release = pack(GOOD)
    for url in (release.url + ".missing", "http://127.0.0.1:9/renode.tar.gz", "nonsense"):
        with pytest.raises(HarnessError, match="cannot be fetched"):
            renode_release.install(Release(release.version, url, release.sha256))
    assert cached() == []


def test_the_command_fetches_from_a_mirror_but_trusts_the_pin_only(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(renode_release.URL_ENVIRONMENT, pack(GOOD).url)
    done = run("doctor", "--install", "renode")
    assert done.returncode == 3
    assert renode_release.PINNED.sha256 in done.stderr
    assert cached() == []


def test_the_command_installs_what_the_pin_names(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    release = pack(GOOD)
    monkeypatch.setattr(renode_release, "PINNED", release)
    for function in (renode_release.folder, renode_release.installed_program, renode_release.install):
        monkeypatch.setattr(function, "__defaults__", (release,))
    assert run("doctor", "--install", "renode").returncode == 0
    assert renode.find() == renode_release.installed_program()


def test_what_can_be_installed_is_listed() -> None:
    for arguments, words in (
        (["--install", "renodo"], "unknown part 'renodo'"),
        (["--install", "pack"], "which board"),
        (["--install", "pack", "--board", "mps2-an386"], "emulator only"),
    ):
        done = run("doctor", *arguments)
        assert done.returncode == 2
        assert words in done.stderr


def test_without_it_nothing_is_built() -> None:
    done = run("run", "lenet5", "--board", "nucleo-f746", "--engine", "renode")
    assert done.returncode == 3
    assert "Renode is not installed" in done.stderr
    assert "harness doctor --install renode" in done.stderr


def test_which_program_is_taken(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert renode.find() is None
    on_path = tmp_path / "bin" / "renode"
    on_path.parent.mkdir()
    on_path.write_text("#!/bin/sh\n")
    on_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert renode.find() == on_path
    release = pack(GOOD)
    installed = renode_release.install(release)
    monkeypatch.setattr(renode_release.installed_program, "__defaults__", (release,))
    assert renode.find() == installed
    monkeypatch.setenv(renode.ENVIRONMENT, str(on_path))
    assert renode.find() == on_path
    monkeypatch.setenv(renode.ENVIRONMENT, str(tmp_path / "missing"))
    with pytest.raises(DeviceError, match=r"names .*missing, which is not a program"):
        renode.find()
