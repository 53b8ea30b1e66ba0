"The rules of the house: rooms, one-way doors, notebooks and the code that they generate."
import ast, dataclasses, json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from conftest import REPO, TIMEOUT
from neuralkit.core.system import System

ROOMS = {"nbs", "neuralkit", "tests", "data", "runs", "settings.ini", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"}
SYSTEMS = ("temporal", "predictor", "timellm", "sgdd", "neuralflow")
GENERATED = sorted(p for p in (REPO/"neuralkit").rglob("*.py") if p.name != "_modidx.py")
NOTEBOOKS = sorted(p for p in (REPO/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
RUN_NOTEBOOKS = [p for p in NOTEBOOKS if p.parent == REPO/"nbs" and p.name != "index.ipynb"]


def git(*words, cwd=REPO) -> list[str]:
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode: pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name]

def tracked() -> list[str]:
    "Files that git has or would take."
    return [name for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard") if (REPO/name).is_file()]

def name_of(path: Path) -> str: return str(path.relative_to(REPO))

def imports(path: Path) -> set[str]:
    "Every module that a file imports, by its absolute name; `from a import b` counts as a and as a.b."
    package, found = path.relative_to(REPO).parent.parts, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {module} | {f"{module}.{a.name}" for a in node.names}
    return found

def cells(path: Path) -> list[dict]: return json.loads(path.read_text(encoding="utf-8"))["cells"]
def source(cell: dict) -> str: return "".join(cell["source"])


# --- rooms

def test_top_level_holds_the_eight_rooms_and_nothing_else():
    assert {name.split("/")[0] for name in tracked() if not name.startswith(".")} <= ROOMS

def test_no_tracked_file_is_large_or_holds_weights():
    for name in tracked():
        assert (REPO/name).stat().st_size <= 2**20, name
        assert Path(name).suffix not in {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".onnx", ".npz"}, name

def test_runs_and_cache_are_ignored():
    assert git("check-ignore", "runs/sgdd/x/config.json", "data/cache/x") == ["runs/sgdd/x/config.json\ndata/cache/x\n"]
    assert not [name for name in tracked() if name.startswith(("runs/", "data/cache/")) and not name.startswith("runs/reference/")]

def test_a_requirement_holds_no_spaces():
    "settings.ini parts requirements at spaces, so each part must begin with a package's name."
    ini = ConfigParser(delimiters=["="], interpolation=None)
    ini.read(REPO/"settings.ini")
    for key, value in ini["DEFAULT"].items():
        if key.endswith("requirements"): assert [w for w in value.split() if not w[0].isalpha()] == [], key


# --- doors

WINGS = ("text", "series")

def module_of(path: Path) -> str: return ".".join(path.relative_to(REPO).with_suffix("").parts)

def inner_imports(path: Path) -> set[str]:
    "The modules of this package that a file imports, lazily or not."
    known = {module_of(p) for p in GENERATED}
    return {m for m in imports(path) if m in known} - {module_of(path)}

def may_import(room: str) -> set[str]:
    "The rooms that a room may look into: itself, and what lies below."
    if room == "core": return {"core"}
    if room in WINGS: return {room, "core"}
    return {room, *WINGS, "core"}

@pytest.mark.parametrize("path", [p for p in GENERATED if p.parent != REPO/"neuralkit"], ids=name_of)
def test_doors_are_one_way(path):
    rooms = {m.split(".")[1] for m in inner_imports(path)}
    assert rooms <= may_import(path.parent.name)

def test_no_two_files_import_each_other_over_any_way():
    "Lazy imports included: what is reached from a file never leads back to it."
    graph = {module_of(p): inner_imports(p) for p in GENERATED}
    def reached(start: str) -> set[str]:
        seen, coming = set(), [*graph[start]]
        while coming:
            module = coming.pop()
            if module not in seen:
                seen.add(module)
                coming += graph.get(module, ())
        return seen
    assert [m for m in graph if m in reached(m)] == []

def test_numbers_follow_the_imports():
    "Inside a folder a notebook imports only what has a lower number; numbers are 00, 01, 02, ... without a hole."
    for folder in sorted({p.parent for p in NOTEBOOKS if p.parent != REPO/"nbs"}):
        numbers = {p.stem[3:]: int(p.stem[:2]) for p in folder.glob("*.ipynb")}
        assert sorted(numbers.values()) == list(range(len(numbers))), folder.name
        for name, number in numbers.items():
            path = REPO/"neuralkit"/folder.name/f"{name}.py"
            if not path.is_file(): continue
            beside = {m.split(".")[2] for m in inner_imports(path) if m.startswith(f"neuralkit.{folder.name}.")}
            assert [other for other in beside if numbers[other] > number] == [], f"{folder.name}/{name}"

def test_core_says_no_word_of_a_system():
    for path in (REPO/"neuralkit"/"core").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name == "card.py": text = text.split("SYSTEMS = {")[0]           # the registry
        words = r"\b(sgdd|timellm|predictor|neuralflow|temporal|bleu|mase|generated trace|dlinear)\b"
        said = [line for line in text.splitlines() if re.search(words, line.lower()) and not line.startswith("# %%")]
        assert said == [], path.name


# --- names

def definitions() -> list[tuple[str, str, ast.AST]]:
    "(module, name, node) of every public function and class of the package."
    found = []
    for path in GENERATED:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"): found.append((module_of(path), node.name, node))
    return found

def test_one_meaning_a_name():
    "No name is defined twice in core and the wings, or by a system and below; systems share names only for the same room. A verb and the part of a system that it asks mean the same."
    rooms = {}
    parts = {field.name for field in dataclasses.fields(System)}
    for module, name, _ in definitions():
        if not (module == "neuralkit.core.verbs" and name in parts): rooms.setdefault(name, []).append(module)
    for name, modules in rooms.items():
        systems = [m for m in modules if m.split(".")[1] in SYSTEMS]
        assert len(modules) == 1 or len(systems) == len(modules), f"{name}: {modules}"
        assert len({m.split(".")[1] for m in systems}) == len(systems), f"{name} twice in a system: {modules}"
        assert len({m.split(".")[2] for m in systems}) <= 1, f"{name} in different rooms: {modules}"

def test_a_class_is_not_called_like_its_base():
    for module, name, node in definitions():
        if isinstance(node, ast.ClassDef): assert name not in [ast.unparse(base).split(".")[-1] for base in node.bases], f"{module}.{name}"

def test_copies_of_configs_are_validated():
    assert [name_of(p) for p in GENERATED if "model_copy" in p.read_text(encoding="utf-8")] == []

def test_verbs_look_at_the_system_object_alone():
    for room in ("verbs", "cli"):
        text = (REPO/"neuralkit"/"core"/f"{room}.py").read_text(encoding="utf-8")
        assert not [word for word in ("getattr(", "hasattr(", "inspect.") if word in text], room

def test_imports_are_read_right(tmp_path, monkeypatch):
    "The reader of imports itself, on every form that python has."
    monkeypatch.setattr(sys.modules[__name__], "REPO", tmp_path)
    path = tmp_path/"neuralkit"/"core"/"x.py"
    path.parent.mkdir(parents=True)
    path.write_text("import a.b\nfrom ..sgdd import data\ndef f():\n    from . import runs\n    from neuralkit.timellm.model import M\nfrom .. import predictor")
    assert {"a.b", "neuralkit.sgdd", "neuralkit.sgdd.data", "neuralkit.core.runs", "neuralkit.timellm.model", "neuralkit.predictor"} <= imports(path)

@pytest.mark.parametrize("module, unwanted", [("neuralkit.core.report", "torch transformers"), ("neuralkit.core.runs", "torch numpy plotly"), ("neuralkit.core.monitor", "torch numpy plotly"),
                                              ("neuralkit.core.config", "torch numpy"), ("neuralkit.core.cli", "torch transformers polars plotly"),
                                              *[(f"neuralkit.{system}.config", "torch transformers polars plotly datasets numpy") for system in SYSTEMS if (REPO/"neuralkit"/system).is_dir()], ("neuralkit.core.papermill", "torch numpy pydantic yaml neuralkit.core.config"),
                                              ("neuralkit", "torch numpy pydantic neuralkit.core")])
def test_light_modules_stay_light(module, unwanted):
    code = f"import sys, {module}; print(*[m for m in {unwanted.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, cwd=REPO)
    assert done.returncode == 0 and done.stdout.split() == [], done.stdout + done.stderr


# --- notebooks

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_every_cell_has_an_id_of_its_own(path):
    ids = [c.get("id") for c in cells(path)]
    assert all(ids) and len(set(ids)) == len(ids)

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_cells_and_lines_are_short(path):
    "Parameters are explained on their line, by the fields' own words; these may be long."
    code = [source(c) for c in cells(path) if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", [])]
    assert [text[:60] for text in code if len(text.splitlines()) > 60] == []
    assert [line for text in code for line in text.splitlines() if len(line) > 140] == []

@pytest.mark.parametrize("path", RUN_NOTEBOOKS, ids=name_of)
def test_run_notebook_decides_nothing(path):
    code = [c for c in cells(path) if c["cell_type"] == "code"]
    assert len(cells(path)) <= 10
    assert not [c["id"] for c in code if c["outputs"] or c["execution_count"] is not None], "outputs are not stripped"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for c in code for node in ast.walk(ast.parse(source(c))) if isinstance(node, kinds)]
    assert len([c for c in code if "parameters" in c["metadata"].get("tags", [])]) == 1

@pytest.mark.parametrize("path", [p for p in RUN_NOTEBOOKS if not p.name.startswith("explore_")], ids=name_of)
def test_parameters_are_explained_by_the_fields_own_words(path):
    "The sync step writes the comments; here they are only compared."
    from neuralkit.core.config import fields, names
    from neuralkit.core.card import load_card
    verb, system = path.stem.split("_", 1)
    known = load_card(system)
    dotted, described = names(known.config), fields(known.config)
    [cell] = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    for line in source(cell).splitlines():
        name, comment = line.split(":")[0], line.partition("  # ")[2]
        assert comment, line
        if name in dotted and not (verb == "evaluate" and name in ("split", "run", "limit")): assert comment.startswith(described[dotted[name]].description), line

SHOWN = [p for p in NOTEBOOKS if p.parent.name in SYSTEMS and "_system" not in p.name]

@pytest.mark.parametrize("path", SHOWN, ids=name_of)
def test_every_module_of_a_system_shows_a_figure(path):
    examples = [source(c) for c in cells(path) if c["cell_type"] == "code" and "#| export" not in source(c)]
    assert [text for text in examples if "plt.subplots" in text]

@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent != REPO/"nbs"], ids=name_of)
def test_definitions_have_their_example_below(path):
    "Three of four public definitions are named in the code cell right below them."
    named, defined = 0, 0
    code = [source(c) for c in cells(path) if c["cell_type"] == "code"]
    for text, below in zip(code, code[1:] + [""]):
        if "#| export" not in text: continue
        public = [n.name for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
        defined += len(public)
        if "#| export" not in below: named += sum(bool(re.search(rf"\b{name}\b", below)) for name in public)
    assert named >= .7*defined, f"{named} of {defined}"

@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent != REPO/"nbs"], ids=name_of)
def test_prose_leads(path):
    "A module's notebook begins with its title and explains itself as it goes."
    kinds = [c["cell_type"] for c in cells(path)]
    assert kinds[0] == "markdown" and source(cells(path)[0]).startswith("# ")
    assert kinds.count("markdown") >= kinds.count("code")/4


# --- generated code

@pytest.mark.parametrize("path", GENERATED, ids=name_of)
def test_public_definitions_say_what_they_do(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and node.end_lineno - node.lineno >= 5:
            assert ast.get_docstring(node) or described_fields(node) or "verb" in ast.dump(ast.Module(node.decorator_list, [])), f"{path.name}: {node.name}"

def described_fields(node) -> bool:
    "A config section, whose fields describe themselves."
    return isinstance(node, ast.ClassDef) and "description" in ast.unparse(node)

def test_generated_code_is_in_step_with_the_notebooks(tmp_path):
    copy = tmp_path/"copy"
    for name in tracked():
        (copy/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO/name, copy/name)
    as_is = {name: (copy/name).read_bytes() for name in tracked() if name.startswith(("nbs/", "neuralkit/"))}
    python = str(Path(sys.executable).parent)
    for command in ("nbdev_clean", "nbdev_export"):
        done = subprocess.run([f"{python}/{command}"], cwd=copy, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | {"PYTHONPATH": str(copy)})
        assert done.returncode == 0, done.stderr
    now = {str(p.relative_to(copy)): p.read_bytes() for room in ("nbs", "neuralkit") for p in (copy/room).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert [name for name in as_is.keys() | now.keys() if as_is.get(name) != now.get(name)] == [], "run nbdev_clean and nbdev_export"
