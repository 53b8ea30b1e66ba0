"""What kill -9 leaves, tried out: a run is killed before an operation on files, or in the middle of a write, then goes
on with --resume auto, perhaps to be killed again; in the end it must equal a run that was left alone.

    python tests/kills.py SYSTEM ... [--every K] [--random N] [--first K] [--asked K] [--power] [--again SHARE]

torch is imported once; every process that trains is forked off from here, so that a trial costs what training costs.
An audit hook sees operations before they happen; writes, fsync and safetensors, which it does not see, are wrapped.
Not seen here: several processes that train one run, other file systems than this one, and of a power cut more than
that contents are lost which were not flushed: names may be lost as well."""
import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
               "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import argparse, builtins, contextlib, hashlib, importlib, io, json, random, shlex, shutil, signal, sys, tempfile
import threading, time, traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch

from neuralkit.core import cli, page, report, verbs
from neuralkit.core.runs import Run

torch.set_num_threads(1)

PACKAGE = Path(cli.__file__).parents[1]
PATIENCE = 120           # seconds after which a process counts as hung


# --- what is tried

@dataclass(frozen=True)
class Case:
    "A short run: the words of `neuralkit train`, and whether data/cache begins empty."
    words: str
    cold: bool = False

    @property
    def system(self) -> str: return self.words.split()[0]


# The learning rates are such that the best is neither the first nor the last that was judged.
SGDD = ("sgdd --preset test --epochs 2 --batch_size 64 --learning_rate .05 --min_learning_rate 1 --warmup 0 --ema 0 "
        "--dropout .1 --checkpoint_every 4 --evaluate_every 3 --evaluate_limit 0 --test_limit 2 --keep 2 --log_every 2")
PREDICTOR = ("predictor --preset test --epochs 3 --learning_rate .1 --min_learning_rate 1 --checkpoint_every 7 "
             "--evaluate_every 5 --early_stopping_patience 2 --keep 2 --log_every 4")
TIMELLM = ("timellm --preset test --epochs 2 --learning_rate .04 --min_learning_rate 1 --dropout .1 "
           "--checkpoint_every 4 --evaluate_every 3 --keep 2 --log_every 2")

CASES = {
    "sgdd": Case(SGDD),
    "sgdd-cold": Case(SGDD, cold=True),
    "predictor": Case(PREDICTOR),
    "predictor-cold": Case(PREDICTOR, cold=True),
    "exact": Case("predictor --preset test --solver exact"),
    "timellm": Case(TIMELLM),
    "out": Case(PREDICTOR + " --out here/run"),
}


# --- operations on files, seen before they happen

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

PATHS = {           # event -> (place of the path among its arguments, place of the folder's descriptor)
    "open": (0, None), "os.truncate": (0, None),
    "os.remove": (0, 1), "os.rmdir": (0, 1), "os.mkdir": (0, 2), "os.chmod": (0, 2), "os.utime": (0, 3),
    "os.rename": (1, 3), "os.symlink": (1, 2), "os.link": (1, 3)}

HALVES = ("write", "save_file", "sendfile")          # operations that can be cut in two


@dataclass(frozen=True)
class Operation:
    "The n-th operation on files of a process, and the line of the package that asked for it."
    n: int
    kind: str
    path: str
    place: str

    def __str__(self) -> str: return f"{self.n} {self.kind} {self.path} at {self.place}"


@dataclass(frozen=True)
class Kill:
    "Where a process is killed: before its n-th operation (or in the middle of it), or after some seconds."
    n: int = 0
    half: bool = False
    power: bool = False              # the power goes as well: what was not flushed to the disk is lost
    asked: int = 0                   # SIGTERM comes before this operation: it is killed while it stops
    after: float | None = None       # seconds

    def __str__(self) -> str:
        if self.after is not None: return f"after {self.after:.3f} s"
        if self.power: return f"power cut before operation {self.n}"
        return f"{'in the middle of' if self.half else 'before'} operation {self.n}"


def path_of(event: str, arguments: tuple) -> str:
    "The absolute path that an audit event is about; empty where it tells none."
    at, folder = PATHS[event]
    path = arguments[at]
    if isinstance(path, int): return os.readlink(f"/proc/self/fd/{path}")
    if path is None: return ""
    path = os.fsdecode(path)
    fd = -1 if folder is None else arguments[folder]
    if fd is not None and fd >= 0: path = f"{os.readlink(f'/proc/self/fd/{fd}')}/{path}"
    return os.path.abspath(path)


def changes_something(event: str, arguments: tuple, path: str) -> bool:
    "Does the operation write at all? Removing what is not there and making what is there do nothing."
    if event == "open": return bool(arguments[2] & WRITING)
    if event in ("os.remove", "os.rmdir"): return os.path.lexists(path)
    if event == "os.mkdir": return not os.path.isdir(path)
    return True


def place_in_package() -> str:
    "The innermost line of the package on the stack, as file:line function."
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE): return f"{path.relative_to(PACKAGE)}:{frame.lineno} {frame.name}"
    return "another thread"


class Watch:
    "Counts this process's operations on files under some folders, and kills it at one of them."
    def __init__(self, folders: list[Path], kill: Kill | None, told: Path):
        self.folders, self.kill, self.told = [str(folder) for folder in folders], kill, told
        self.seen: list[Operation] = []
        self.flushed: dict[str, int] = {}         # path -> bytes that are surely on the disk, of files written to
        self.on = True
        self.mine = threading.RLock()             # tensorboard writes in a thread of its own

    def concerns(self, path: str) -> bool:
        return self.on and any(path == folder or path.startswith(folder + "/") for folder in self.folders)

    def meet(self, kind: str, path: str, half: Callable | None = None) -> None:
        "An operation is about to happen; `half()` does half of it."
        if not self.concerns(path): return
        with self.mine:
            now = Operation(len(self.seen) + 1, kind, path, place_in_package())
            self.seen.append(now)
            if self.kill is None: return
            if now.n == self.kill.asked: os.kill(os.getpid(), signal.SIGTERM)
            if now.n != self.kill.n: return
            self.on = False
            self.told.write_text(str(now))
            if self.kill.half and half: half()
            if self.kill.power: self.cut_power()
            os.kill(os.getpid(), signal.SIGKILL)

    def cut_power(self) -> None:
        "Of each file keep what was flushed."
        for path, size in self.flushed.items():
            if os.path.isfile(path) and os.path.getsize(path) > size: os.truncate(path, size)

    def note(self, event: str, arguments: tuple, path: str) -> None:
        "Keep in mind what is on the disk, now that an operation was let pass."
        if event == "open":
            fresh = arguments[2] & os.O_TRUNC or not os.path.exists(path)
            self.flushed.setdefault(path, 0 if fresh else os.path.getsize(path))
            if fresh: self.flushed[path] = 0
        if event == "os.remove": self.flushed.pop(path, None)
        if event == "os.rename":
            before = os.path.abspath(os.fsdecode(arguments[0]))
            for name in list(self.flushed):
                if name == before or name.startswith(before + "/"):
                    self.flushed[path + name[len(before):]] = self.flushed.pop(name)

    def start(self) -> None:
        "From now on."
        sys.addaudithook(self.hear)
        self.wrap_open()
        self.wrap_fsync()
        self.wrap_sendfile()
        self.wrap_save_file()

    def hear(self, event: str, arguments: tuple) -> None:
        if event not in PATHS or not self.on: return
        path = path_of(event, arguments)
        if not self.concerns(path) or not changes_something(event, arguments, path): return
        self.meet(event, path)
        self.note(event, arguments, path)

    def wrap_open(self) -> None:
        real = builtins.open
        def watched(file, *words, **more):
            f = real(file, *words, **more)
            if isinstance(file, (str, Path)) and f.writable(): self.wrap_write(f, os.path.abspath(file))
            return f
        builtins.open = io.open = watched

    def wrap_write(self, f, path: str) -> None:
        if not self.concerns(path): return
        real = f.write
        def write(content):
            def half():
                real(content[:len(content)//2])
                f.flush()
            self.meet("write", path, half)
            return real(content)
        f.write = write

    def wrap_fsync(self) -> None:
        real = os.fsync
        def fsync(fd):
            path = os.readlink(f"/proc/self/fd/{fd if isinstance(fd, int) else fd.fileno()}")
            self.meet("fsync", path)
            real(fd)
            if path in self.flushed: self.flushed[path] = os.path.getsize(path)
        os.fsync = fsync

    def wrap_sendfile(self) -> None:
        "By which shutil copies."
        real = os.sendfile
        def sendfile(to, source, offset, count):
            left = os.fstat(source).st_size - offset
            def half(): real(to, source, offset, left//2)
            if left > 0: self.meet("sendfile", os.readlink(f"/proc/self/fd/{to}"), half)
            return real(to, source, offset, count)
        os.sendfile = sendfile

    def wrap_save_file(self) -> None:
        real = safetensors.torch.save_file
        def save_file(tensors, path, *more):
            def half():
                real(tensors, path, *more)
                os.truncate(path, os.path.getsize(path)//2)
            self.meet("save_file", os.path.abspath(path), half)
            self.flushed[os.path.abspath(path)] = 0
            real(tensors, path, *more)
        safetensors.torch.save_file = save_file


# --- processes

def leave_out_pictures() -> None:
    "Pictures of the report cost more than all the training, and no file depends on them but the report itself."
    report.training_figure = lambda rows, name: name
    page.plot = lambda figure, number: (f"figure {number}", "")
    page._plotly_js = lambda: ""


@dataclass
class Trained:
    "How a process that trained ended: its exit status (-9 where it was killed), and what it told."
    status: int
    told: dict = field(default_factory=dict)      # of one that ended: seen, modules, findings, seconds
    died_at: str = ""                             # of one that was killed: the operation


class Bench:
    "A case, a folder to try it in, and what it comes to when left alone."
    def __init__(self, name: str, folder: Path, sure: bool = True):
        self.name, self.case, self.folder = name, CASES[name], folder
        self.cache = folder/"cache"
        self.cache.mkdir(parents=True, exist_ok=True)
        home = self.home("alone")
        alone = self.train(home)
        if alone.status: raise SystemExit(f"{name}: a run left alone ends with {alone.status}: {home/'said'}")
        self.operations = [_operation(seen) for seen in alone.told["seen"]]
        self.expected = self.outcome(home)
        for module in alone.told["modules"]: _import(module)
        self.seconds = self.seconds_again() if sure else alone.told["seconds"]

    def seconds_again(self) -> float:
        "What a second run takes, which must be equal to the first, or nothing could be told here."
        home = self.home("again")
        again = self.train(home)
        problems = self.problems(home, again)
        if problems: raise SystemExit(f"{self.name}: two runs left alone differ: {problems}")
        return again.told["seconds"]

    def home(self, name: str) -> Path:
        home = self.folder/name
        shutil.rmtree(home, ignore_errors=True)
        (home/"data").mkdir(parents=True)
        if self.case.cold: (home/"data"/"cache").mkdir()
        else: (home/"data"/"cache").symlink_to(self.cache)
        return home

    def copy(self, start: Path, name: str) -> Path:
        home = self.folder/name
        shutil.rmtree(home, ignore_errors=True)
        return shutil.copytree(start, home, symlinks=True)

    def killed(self, n: int) -> tuple[Path, list[Operation]]:
        "The home of a run that was killed before operation `n`, and the operations of the process that goes on there."
        home = self.home("killed")
        self.train(home, Kill(n))
        on = self.train(self.copy(home, "going-on"))
        return home, [_operation(seen) for seen in on.told["seen"]]

    def asked(self, n: int) -> list[Operation]:
        "The operations of a process that is asked to stop before operation `n`, from there on."
        end = self.train(self.home("asked"), Kill(asked=n))
        return [seen for seen in map(_operation, end.told["seen"]) if seen.n > n]

    def watched(self, home: Path) -> list[Path]:
        "Where operations count: a cache that is shared is not among it."
        return [home/"runs", home/"here", *([home/"data"] if self.case.cold else [])]

    def train(self, home: Path, kill: Kill | None = None) -> Trained:
        "`neuralkit train ... --resume auto` in a process of its own."
        if threading.active_count() > 1: raise RuntimeError("there are threads, so fork is not safe")
        told, died_at = home/"told", home/"died_at"
        for path in (told, died_at): path.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0: self.be_child(home, kill, told, died_at)
        status = waited(pid, kill.after if kill else None)
        if status == -signal.SIGKILL:
            return Trained(status, died_at=died_at.read_text() if died_at.exists() else "")
        return Trained(status, json.loads(told.read_text()) if told.exists() else {})

    def be_child(self, home: Path, kill: Kill | None, told: Path, died_at: Path):
        "What the forked process does; it does not return."
        status = 70
        try:
            speak_into(home/"said")
            os.chdir(home)
            os.environ["NEURALKIT_HOME"] = str(home)
            words = ["train", *shlex.split(self.case.words), "--resume", "auto"]
            sys.argv = ["neuralkit", *words]
            before = set(sys.modules)
            watch = Watch(self.watched(home), kill, died_at)
            watch.start()
            begun = time.perf_counter()
            status = cli.main(words)
            seconds = time.perf_counter() - begun
            watch.on = False
            modules = sorted(set(sys.modules) - before)
            found = [] if status else [row for run in self.runs(home) for row in verbs.verify(Run(run))]
            seen = [vars(operation) for operation in watch.seen]
            told.write_text(json.dumps({"seen": seen, "modules": modules, "findings": found, "seconds": seconds}))
        except BaseException:
            status = 70
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def runs(self, home: Path) -> list[Path]:
        "The run folders there are."
        return sorted([*home.glob(f"runs/{self.case.system}/[!.]*"), *home.glob("here/[!.]*")])

    def newest(self, home: Path) -> int:
        "The step of the newest checkpoint there is; 0 where there is none."
        found = [path for run in self.runs(home) for path in (run/"checkpoints").glob("step_*")]
        return max([int(path.name[5:]) for path in found], default=0)

    def outcome(self, home: Path) -> dict:
        "All that a run comes to, but for times and what depends on them."
        runs = self.runs(home)
        found = {"runs": len(runs), "around": around(self.watched(home), runs)}
        for run in runs[:1]: found |= contents(run)
        return found

    def trial(self, kills: list[Kill], name: str, start: Path | None = None) -> tuple[list[str], list[str]]:
        "(what is wrong, where it was killed) after a run, or one that goes on in a copy of `start`, was killed so."
        home, deaths = self.copy(start, name) if start else self.home(name), []
        reached = [self.newest(home)]
        for kill in kills:
            end = self.train(home, kill)
            if end.status not in (-signal.SIGKILL, 128 + signal.SIGTERM): break
            deaths.append(f"{kill}: {end.died_at}")
            reached.append(self.newest(home))
        else: end = self.train(home)
        problems = self.problems(home, end)
        if reached != sorted(reached): problems.append(f"work was lost: after each kill the newest checkpoint is {reached}")
        if not problems: shutil.rmtree(home)
        return problems, deaths

    def problems(self, home: Path, end: Trained) -> list[str]:
        "What is not as it should be in the end."
        if end.status: return [f"it ended with {end.status}: {(home/'said').read_text()[-600:]}"]
        bad = [f"verify: {row}" for row in end.told["findings"] if row["state"] != "ok"]
        found = self.outcome(home)
        for what in sorted(found.keys() | self.expected.keys()):
            there, wanted = found.get(what), self.expected.get(what)
            if there != wanted: bad.append(f"{what}: {difference(there, wanted)}")
        return bad


def _operation(told: dict) -> Operation: return Operation(**told)


def points(operations: list[Operation], power: bool = False, asked: int = 0) -> list[Kill]:
    "Before every operation, and in the middle of each that can be cut in two."
    found = []
    for seen in operations:
        found.append(Kill(seen.n, power=power, asked=asked))
        if seen.kind in HALVES and not power: found.append(Kill(seen.n, half=True, asked=asked))
    return found


def _import(name: str) -> None:
    "Import here what a child needed, so that the next need not."
    with contextlib.suppress(Exception): importlib.import_module(name)


def speak_into(path: Path) -> None:
    "Let what this process prints go into a file."
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2): os.dup2(fd, number)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def waited(pid: int, after: float | None) -> int:
    "The exit status of a child, which is killed after some seconds where it has not ended."
    until = time.perf_counter() + (PATIENCE if after is None else after)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if time.perf_counter() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGKILL if after is not None else -signal.SIGALRM
        time.sleep(.002)


# --- what a run comes to

TIMES = {"examples_per_s", "tokens_per_s", "seconds", "train_seconds", "told"}
MANIFEST = ("status", "steps", "solved", "fitted", "calibration", "error", "config_hash", "data", "models", "parent",
            "parameters", "examples", "device", "deterministic", "threads", "processes")


def timeless(value):
    "A nested value without its times."
    if isinstance(value, dict): return {name: timeless(v) for name, v in value.items() if name not in TIMES}
    if isinstance(value, list): return [timeless(v) for v in value]
    return value


def sha256(path: Path) -> str: return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def read(path: Path): return timeless(json.loads(path.read_text())) if path.exists() else None


def contents(run: Path) -> dict:
    "What is in a run folder."
    manifest = read(run/"manifest.json")
    found = {"files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if "tfevents" not in path.name),
             "manifest": {name: manifest.get(name) for name in MANIFEST},
             "metrics": [timeless(json.loads(line)) for line in (run/"metrics.jsonl").read_text().splitlines()],
             "report": (run/"report.html").exists() and (run/"report.html").read_text().rstrip().endswith("</html>")}
    for name in ("config", "fitted", "calibration", "samples", "summary", "evaluation"):
        found[name] = read(run/f"{name}.json")
    for name in ("best", "last"): found[name] = os.readlink(run/"checkpoints"/name)
    for path in sorted((run/"checkpoints").glob("step_*")):
        found[path.name] = {"state": read(path/"state.json"), "model": sha256(path/"model.safetensors"),
                            "trainer": sha256(path/"trainer.safetensors")}
    return found


def around(folders: list[Path], runs: list[Path]) -> list[str]:
    "Names of all that lies under the folders, beside the run folders and what is in them."
    names = []
    for folder in folders:
        for path in folder.rglob("*"):
            if not any(path == run or path.is_relative_to(run) for run in runs):
                names.append(f"{path.relative_to(folder.parent)}{'' if path.is_dir() else ' ' + sha256(path)}")
    return sorted(names)


def difference(there, wanted) -> str:
    "How two values differ, in few words."
    if isinstance(there, dict) and isinstance(wanted, dict):
        names = [name for name in sorted(there.keys() | wanted.keys()) if there.get(name) != wanted.get(name)]
        return "; ".join(f"{name}: {difference(there.get(name), wanted.get(name))}" for name in names)
    if isinstance(there, list) and isinstance(wanted, list):
        more = [x for x in there if x not in wanted]
        less = [x for x in wanted if x not in there]
        return f"{len(there)} there, {len(wanted)} expected, too many {str(more)[:300]}, missing {str(less)[:300]}"
    return f"{str(there)[:200]} there, {str(wanted)[:200]} expected"


# --- the command

def trials_of(bench: Bench, words: argparse.Namespace) -> Iterator[tuple[list[Kill], Path | None]]:
    "The kills of each trial, and the home in which it begins."
    chance = random.Random(words.seed)
    start, operations = bench.killed(words.first) if words.first else (None, bench.operations)
    if words.asked: operations = bench.asked(words.asked)
    tried = points(operations, words.power, words.asked)[::words.every]
    if words.few: tried = spread(points(operations), words.few)
    if words.random: tried = [Kill(after=chance.uniform(0, bench.seconds)) for _ in range(words.random)]
    for kill in tried:
        moment, n = chance.uniform(0, bench.seconds), chance.randint(1, len(bench.operations))
        second = Kill(after=moment) if words.random else Kill(n)
        yield [kill, second] if chance.random() < words.again else [kill], start


def spread(points: list[Kill], n: int) -> list[Kill]:
    "`n` of the points, evenly over the run; the last of them in the middle of a write."
    whole, halves = [p for p in points if not p.half], [p for p in points if p.half]
    few = [whole[(2*i + 1)*len(whole)//(2*n - 2)] for i in range(n - 1)]
    return [*few, halves[len(halves)//2]]


def tried(name: str, words: argparse.Namespace, folder: Path) -> int:
    "Try one case, and say what was found; returns how many trials failed."
    begun = time.perf_counter()
    bench = Bench(name, folder/name, sure=not words.few)
    print(f"{name}: {len(bench.operations)} operations in {bench.seconds:.2f} s; "
          f"best {bench.expected['best']}, last {bench.expected['last']}", flush=True)
    failed = killed = count = 0
    for count, (kills, start) in enumerate(trials_of(bench, words), 1):
        problems, deaths = bench.trial(kills, f"trial-{count}", start)
        killed += len(deaths)
        if words.verbose: print(f"  {count} {[str(death) for death in deaths]}", flush=True)
        if not problems: continue
        failed += 1
        print(f"{name} trial {count} FAILED, kept in {bench.folder}/trial-{count}", flush=True)
        for death in deaths: print(f"    killed {death}", flush=True)
        for problem in problems: print(f"    {problem}", flush=True)
    seconds = time.perf_counter() - begun
    print(f"{name}: {count} trials, {killed} kills, {failed} failed, {seconds:.0f} s", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", metavar="SYSTEM", nargs="+", choices=CASES, help=", ".join(CASES))
    parser.add_argument("--every", type=int, default=1, help="every K-th point of the run")
    parser.add_argument("--few", type=int, default=0, help="so many points, spread over the run, in place of all")
    parser.add_argument("--random", type=int, default=0, help="so many random moments in place of operations")
    parser.add_argument("--asked", type=int, default=0,
                        help="SIGTERM comes before operation K; what is tried out is how it stops")
    parser.add_argument("--power", action="store_true", help="with each kill the power goes as well")
    parser.add_argument("--again", type=float, default=.3, help="share of trials that are killed a second time")
    parser.add_argument("--first", type=int, default=0,
                        help="kill always before operation K; what is tried out is the process that goes on")
    parser.add_argument("--seed", type=int, default=0, help="of what is left to chance")
    parser.add_argument("--folder", type=Path, help="where to try; what failed stays there")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of reports")
    parser.add_argument("--verbose", action="store_true", help="a line for each trial")
    words = parser.parse_args()
    if not words.pictures: leave_out_pictures()
    folder = (words.folder or Path(tempfile.mkdtemp(prefix="kills-"))).resolve()
    failed = sum(tried(name, words, folder) for name in words.systems)
    if not failed and not words.folder: shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
