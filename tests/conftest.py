"What all tests share: one thread, no network, a home of their own, and one cache for all homes."
import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import hashlib, subprocess, sys, warnings
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

torch.set_num_threads(1)

REPO = Path(__file__).resolve().parents[1]
TIMEOUT = 240      # seconds after which a process counts as hung


@dataclass
class Result:
    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str: return self.stdout.strip().splitlines()[-1]


def sha256(path) -> str: return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def files(folder) -> dict[str, str]:
    "Every file under `folder` but the cache, with its sha256."
    folder = Path(folder)
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file() and "cache" not in p.parts}


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    "data/cache of all homes; workers of pytest-xdist share it as well."
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)/"shared-cache"
    folder.mkdir(exist_ok=True)
    os.environ["HF_HOME"] = str(folder/"hf")
    return folder


def make_home(folder: Path, cache: Path) -> Path:
    (folder/"data").mkdir(parents=True)
    (folder/"data"/"cache").symlink_to(cache)
    return folder


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory, cache) -> Path:
    "A home that holds the run of `trained` and whatever reads it."
    return make_home(tmp_path_factory.mktemp("shared")/"home", cache)


@pytest.fixture
def home(tmp_path, cache, monkeypatch) -> Path:
    "A home without runs, for this test alone."
    monkeypatch.setenv("NEURALKIT_HOME", str(tmp_path/"home"))
    return make_home(tmp_path/"home", cache)


@pytest.fixture(scope="session")
def trained(shared_home):
    "`trained(system)`: a finished run of its test preset, made once through the Python interface."
    made = {}

    def run_of(system: str = "sgdd"):
        if system not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NEURALKIT_HOME", str(shared_home))
                from neuralkit.core.verbs import train
                made[system] = train(system, "test")
        return made[system]
    return run_of


def neuralkit_process(*words, home: Path, python_m: bool = False, wait: bool = True, **env):
    "The command in a process of its own: a Result, or with wait=False the running Popen."
    command = [sys.executable, "-m", "neuralkit"] if python_m else [str(Path(sys.executable).with_name("neuralkit"))]
    process = subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home,
                               env=os.environ | {"NEURALKIT_HOME": str(home), "PYTHONUNBUFFERED": "1"} | env)
    return finish(process) if wait else process


def finish(process) -> Result:
    try: stdout, stderr = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Result(process.returncode, stdout, stderr)


@pytest.fixture
def neuralkit(capfd, monkeypatch):
    "The command inside this process, which spares the start; an exception that escapes it fails the test."
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)       # main replaces it

    def call(*words) -> Result:
        from neuralkit.core.cli import main
        capfd.readouterr()
        try: status = main([str(w) for w in words])
        except SystemExit as e: status = e.code or 0
        return Result(status, *capfd.readouterr())
    return call


def left_behind(folder: Path) -> list[Path]:
    "Half-written files of processes that are gone; another test may be writing at this moment."
    found = [path for path in folder.glob(".*.tmp") if not path.name.split(".")[-2].isdecimal() or not psutil.pid_exists(int(path.name.split(".")[-2]))]
    return [path for path in found if path.exists()]

@pytest.fixture
def refused(neuralkit, home):
    "Asserts that a command ends with one clear sentence that holds `hints` and leaves no file behind."
    def check(words, hints=()) -> None:
        before = files(home)
        result = neuralkit(*words)
        assert result.status not in (0, None), result.stdout
        one_sentence(result.stderr, hints)
        assert files(home) == before
        assert not left_behind(home/"data"/"cache")
    return check


def one_sentence(stderr: str, hints=()) -> None:
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("neuralkit: "), stderr
    missing = [hint for hint in hints if str(hint) not in lines[0]]
    assert not missing, f"{missing} not in: {lines[0]}"
