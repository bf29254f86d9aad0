#!/usr/bin/env python3
"""Measures libpar against bare reqwest and a raw socket, and prints one table: `benches/run.py --lib-dir target/release`.

From Python it is measured against `http.client`. The model server has one core and each client the other. Rounds are interleaved, so that what else the machine does
falls on all alike; figures are medians of the rounds, a ratio is the median of the rounds' own. README.md says what each
row means. Standard library only.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BENCHES = Path(__file__).resolve().parent
ROOT = BENCHES.parent
BUILD = ROOT / "build" / "bench"
CLIENTS = ("reqwest", "raw", "libpar")
PYTHON_CLIENTS = ("http.client", "libpar")
TIME_LIMIT = 180  # seconds: a client that takes longer hangs

# ---- what is measured


@dataclass
class Scenario:
    """`count` and `size` mean what the client makes of them: invokes, loops or streams; chunks or milliseconds."""

    count: int
    size: int = 0
    quick: tuple[int, int] | None = None
    play: str = ""  # the clients' name for it, where it is another
    variants: tuple[str, ...] = ("",)  # of libpar: all are tried beforehand, and the one with the least `cost` stays
    cost: str = ""
    clients: tuple[str, ...] = CLIENTS
    both_cores: bool = False  # whether it needs no server, and so may have its core
    python: bool = False  # whether python/bench.py plays it; else C and Rust do
    key: str = ""

    @property
    def bare(self):
        """The client that libpar is a multiple of."""
        return PYTHON_CLIENTS[0] if self.python else CLIENTS[0]

    def numbers(self, quick):
        return self.quick if quick and self.quick else (self.count, self.size)


SCENARIOS = {
    "invoke": Scenario(5000, quick=(2000, 0)),
    "invoke-sse": Scenario(5000, quick=(2000, 0)),
    "flight": Scenario(60000, quick=(15000, 0), variants=("inbox", "turn"), cost="cpu_us"),
    "flight-sse": Scenario(40000, quick=(10000, 0), variants=("inbox", "turn"), cost="cpu_us"),
    "tools": Scenario(1000, quick=(300, 0)),
    "tools-callback": Scenario(1000, quick=(300, 0), play="tools", variants=("callback",)),
    "tools-sse": Scenario(1000, quick=(300, 0)),
    "burst": Scenario(400, 500, quick=(100, 500)),
    "spaced": Scenario(1, 100, quick=(1, 50)),
    "crowd": Scenario(1000, 80, quick=(1000, 40), variants=("inbox", "fd"), cost="cpu_percent"),
    "idle": Scenario(1000, 2500, quick=(1000, 1500)),
    "turns": Scenario(400, 40, quick=(100, 40), clients=("libpar",)),
    "loops": Scenario(20000, quick=(4000, 0), clients=("libpar",), variants=("inbox", "turn"), cost="us", both_cores=True),
    "startup": Scenario(1, 1, clients=("libpar",)),
    "python-invoke": Scenario(3000, quick=(1000, 0), play="invoke", python=True, clients=PYTHON_CLIENTS),
    "python-invoke-thread": Scenario(3000, quick=(1000, 0), play="invoke-thread", python=True, clients=PYTHON_CLIENTS),
    "python-flight": Scenario(20000, quick=(8000, 0), play="flight", python=True, clients=("libpar",)),
    "python-burst": Scenario(10, 10000, quick=(5, 10000), play="burst", python=True, clients=PYTHON_CLIENTS),
    "python-crowd": Scenario(1000, 80, quick=(1000, 40), play="crowd", python=True, clients=("libpar",)),
}
for name, scenario in SCENARIOS.items():
    scenario.key, scenario.play = name, scenario.play or name


@dataclass
class Row:
    """One line of the table. `times` judges libpar as a multiple of the bare client, `limit` as it is; the sign of the
    comparison is `at_least`'s or not. Without either the row only informs."""

    title: str
    scenario: str
    key: str
    times: float | None = None
    limit: float | None = None
    at_least: bool = False

    def target(self):
        sign = "≥" if self.at_least else "≤"
        if self.times is not None:
            return f"{sign} {self.times:g}x"
        return "" if self.limit is None else f"{sign} {self.limit:,g}"

    def met(self, libpar, ratio):
        value, bound = (ratio, self.times) if self.times is not None else (libpar, self.limit)
        if bound is None:
            return None
        if value is None:
            return False
        return value >= bound if self.at_least else value <= bound


ROWS = [
    Row("one invoke, wall µs", "invoke", "wall_us", times=1.25),
    Row("one invoke, CPU µs", "invoke", "cpu_us", times=1.5),
    Row("one invoke, system calls", "invoke", "syscalls", limit=8),
    Row("one invoke over SSE, wall µs", "invoke-sse", "wall_us", times=1.25),
    Row("one invoke over SSE, CPU µs", "invoke-sse", "cpu_us", times=1.5),
    Row("one invoke over SSE, system calls", "invoke-sse", "syscalls", limit=8),
    Row("64 in flight, invokes/s", "flight", "per_second", times=0.6, at_least=True),
    Row("64 in flight over SSE, invokes/s", "flight-sse", "per_second", times=0.6, at_least=True),
    Row("3 x 3 host tools, loops/s", "tools", "per_second", times=0.75, at_least=True),
    Row("3 x 3 host tools by callback, loops/s", "tools-callback", "per_second", times=0.75, at_least=True),
    Row("3 x 3 host tools over SSE, loops/s", "tools-sse", "per_second", times=0.75, at_least=True),
    Row("500-chunk stream, chunks/s", "burst", "chunks_per_second", times=0.7, at_least=True),
    Row("500-chunk stream, allocations per chunk", "burst", "allocations_per_chunk", limit=2),
    Row("a chunk each 20 ms, added p50 µs", "spaced", "added_p50_us", times=1.3),
    Row("1,000 streams, late", "crowd", "late", limit=0),
    Row("1,000 streams, failed", "crowd", "failed", limit=0),
    Row("1,000 streams, CPU %", "crowd", "cpu_percent", times=2),
    Row("1,000 streams, added p50 µs", "crowd", "added_p50_us"),
    Row("1,000 streams, added p99 µs", "crowd", "added_p99_us"),
    Row("1,000 streams, KB each", "crowd", "kb_per_stream", limit=30),
    Row("1,000 idle streams, CPU ms per s", "idle", "idle_cpu_ms_per_second", limit=1),
    Row("one turn of the loop alone, µs", "turns", "us_per_turn", limit=60),
    Row("3 x 3 host tools without network, loops/s", "loops", "per_second", limit=5000, at_least=True),
    Row("the same, bytes a run leaves behind", "loops", "bytes_kept_per_run", limit=64),
    Row("create, mock invoke, close, ms", "startup", "ms", limit=8),
    Row("libpar.so stripped, MB", "size", "mb", limit=12),
    Row("Python: one invoke, CPU µs", "python-invoke", "cpu_us", times=1.125),
    Row("Python: one invoke, wall µs", "python-invoke", "wall_us"),
    Row("Python: one invoke on a thread, CPU µs", "python-invoke-thread", "cpu_us", times=1.125),
    Row("Python: one invoke on a thread, wall µs", "python-invoke-thread", "wall_us"),
    Row("Python: 64 in flight on asyncio, invokes/s", "python-flight", "per_second", limit=15000, at_least=True),
    Row("Python: 64 in flight on asyncio, CPU µs each", "python-flight", "cpu_us"),
    Row("Python: 10,000-chunk stream, events/s", "python-burst", "events_per_second", limit=200000, at_least=True),
    Row("Python: 1,000 asyncio streams, late", "python-crowd", "late", limit=0),
    Row("Python: 1,000 asyncio streams, failed", "python-crowd", "failed", limit=0),
    Row("Python: 1,000 asyncio streams, tokens lost", "python-crowd", "lost", limit=0),
    Row("Python: 1,000 asyncio streams, CPU %", "python-crowd", "cpu_percent"),
    Row("Python: 1,000 asyncio streams, added p50 µs", "python-crowd", "added_p50_us"),
    Row("Python: 1,000 asyncio streams, added p99 µs", "python-crowd", "added_p99_us"),
]

# ---- building and starting


def run(command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def build(lib_dir, with_cargo):
    """The Rust side with cargo; the C side against the library as an installed one: found by its SONAME."""
    if with_cargo:
        run(["cargo", "build", "--release", "--quiet", "--manifest-path", BENCHES / "Cargo.toml"])
    library = lib_dir / "libpar.so"
    if not library.exists():
        sys.exit(f"{library} is not there: build it first")
    BUILD.mkdir(parents=True, exist_ok=True)
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True).stdout
    soname = re.search(r"SONAME.*\[(.+)\]", dynamic)
    for name in {"libpar.so", soname[1] if soname else "libpar.so"}:
        (BUILD / name).unlink(missing_ok=True)
        (BUILD / name).symlink_to(library)
    compiler = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra"]
    link = [f"-L{BUILD}", "-lpar", f"-Wl,-rpath,{BUILD}"]
    run([*compiler, "-I", ROOT / "include", BENCHES / "c/bench.c", "-o", BUILD / "bench", *link])
    run([*compiler, "-shared", "-fPIC", BENCHES / "c/count_allocs.c", "-o", BUILD / "count_allocs.so"])
    return library


def pin(core):
    return lambda: os.sched_setaffinity(0, {core})


class Bench:
    def __init__(self, quick, target_dir, library):
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.client_core = cores[0], cores[-1]
        self.quick = quick
        self.bin = target_dir / "release"
        self.env = os.environ | {"PAR_LIBRARY": str(library), "PYTHONPATH": str(ROOT / "bindings/python/src")}
        self.server = subprocess.Popen(
            [self.bin / "bench-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=pin(self.server_core)
        )
        self.port = self.server.stdout.readline().strip()
        self.complaints = set()
        self.variants = {}  # which variant of libpar a scenario settled on, by the key of the scenario

    def stop(self):
        self.server.stdin.close()
        self.server.wait()

    def command(self, client, scenario, numbers=None, variant=None):
        count, size = numbers or scenario.numbers(self.quick)
        if scenario.python:
            return [sys.executable, BENCHES / "python/bench.py", client, scenario.play, self.port, str(count), str(size)]
        if client == "libpar":
            variant = variant or self.variants.get(scenario.key, scenario.variants[0])
            return [BUILD / "bench", scenario.play, self.port, str(count), str(size), variant]
        return [self.bin / "bench-floor", client, scenario.play, self.port, str(count), str(size)]

    def figures(self, client, scenario, **how):
        """What one client prints for one scenario: numbers by key, or nothing when it fails."""
        command = self.command(client, scenario, **how)
        try:
            place = None if scenario.both_cores else pin(self.client_core)
            pinned = {"timeout": TIME_LIMIT, "preexec_fn": place, "env": self.env}
            done = run(command, capture_output=True, text=True, **pinned)
            return json.loads(done.stdout)
        except (subprocess.SubprocessError, json.JSONDecodeError) as failure:
            said = (getattr(failure, "stderr", None) or str(failure)).strip()[-600:]
            if (client, scenario.key) not in self.complaints:
                print(f"{client} {scenario.key} failed: {said}", file=sys.stderr)
            self.complaints.add((client, scenario.key))
            return {}

    def settle_variant(self, scenario):
        if len(scenario.variants) < 2:
            return
        tried = {variant: self.figures("libpar", scenario, variant=variant).get(scenario.cost) for variant in scenario.variants}
        works = {variant: cost for variant, cost in tried.items() if cost is not None}
        self.variants[scenario.key] = min(works, key=works.get, default=scenario.variants[0])

    def cost_of_more(self, client, scenario, fewer, more, counted):
        """What `more` costs over `fewer` by a counter of the whole process: starting up falls out of the difference."""
        low, high = (counted(self.command(client, scenario, numbers=numbers)) for numbers in (fewer, more))
        return None if low is None or high is None else high - low

    def syscalls(self, client, scenario):
        base = 500
        extra = self.cost_of_more(client, scenario, (base, 0), (base + 2000, 0), self.count_syscalls)
        return None if extra is None else extra / 2000

    def allocations(self, client):
        streams, chunks = 40, 500
        extra = self.cost_of_more(client, SCENARIOS["burst"], (streams, chunks), (streams, 2 * chunks), self.count_allocations)
        return None if extra is None else extra / ((streams + 5) * chunks)  # the clients warm up with five

    def count_syscalls(self, command):
        """By perf, which does not slow them down; by strace where perf may not."""
        pinned = {"capture_output": True, "text": True, "timeout": TIME_LIMIT, "preexec_fn": pin(self.client_core)}
        if shutil.which("perf"):
            done = subprocess.run(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", *map(str, command)], **pinned)
            counted = re.search(r"^(\d+),,raw_syscalls:sys_enter", done.stderr, re.M)
            if counted:
                return int(counted[1]) if done.returncode == 0 else None
        if shutil.which("strace"):
            done = subprocess.run(["strace", "-f", "-c", "-U", "calls,name", *map(str, command)], **pinned)
            counted = re.search(r"^\s*(\d+) total$", done.stderr, re.M)
            if counted and done.returncode == 0:
                return int(counted[1])
        return None

    def count_allocations(self, command):
        with tempfile.NamedTemporaryFile("r") as file:
            env = os.environ | {"LD_PRELOAD": str(BUILD / "count_allocs.so"), "COUNT_ALLOCS_TO": file.name}
            done = subprocess.run([str(part) for part in command], env=env, capture_output=True, timeout=TIME_LIMIT)
            return int(file.read()) if done.returncode == 0 else None


# ---- measuring and reporting


def measure(bench, names, rounds):
    """Every client's figures for every scenario, medians over the rounds; and libpar's ratios to the bare client."""
    seen = {name: {client: [] for client in SCENARIOS[name].clients} for name in names}
    for name in names:
        bench.settle_variant(SCENARIOS[name])
    for number in range(rounds):
        for name in names:
            progress(f"round {number + 1} of {rounds}: {name}")
            for client in SCENARIOS[name].clients:
                seen[name][client].append(bench.figures(client, SCENARIOS[name]))
    progress("counting system calls and allocations")
    medians = {
        name: {client: median_of(rounds_of) for client, rounds_of in clients.items()} for name, clients in seen.items()
    }
    ratios = {
        name: ratios_of(clients["libpar"], clients.get(SCENARIOS[name].bare, [])) for name, clients in seen.items()
    }
    for client in CLIENTS:
        for name in {"invoke", "invoke-sse"} & medians.keys():
            medians[name][client]["syscalls"] = bench.syscalls(client, SCENARIOS[name])
        if "burst" in medians:
            medians["burst"][client]["allocations_per_chunk"] = bench.allocations(client)
    progress("")
    return medians, ratios


def ratios_of(libpar, bare):
    """What libpar takes over the bare client in the same round: the median, key by key. What slows a round slows both."""
    pairs = [(ours, floor) for ours, floor in zip(libpar, bare) if ours and floor]
    keys = {key for ours, floor in pairs for key in ours.keys() & floor.keys() if floor[key]}
    return {key: statistics.median(ours[key] / floor[key] for ours, floor in pairs if floor[key]) for key in keys}


def progress(text):
    """One line that replaces itself, for someone who watches."""
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def median_of(rounds):
    """Key by key; what failed in any round, and what must never happen, counts by its worst round."""
    keys = {key for figures in rounds for key in figures}
    if not all(rounds):
        return {}
    worst = {"late", "failed", "lost"}
    return {key: (max if key in worst else statistics.median)(figures[key] for figures in rounds) for key in keys}


def stripped_mb(library):
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "libpar.so"
        run(["strip", "-o", copy, library])
        return copy.stat().st_size / 1e6


def judge(medians, ratios, variants):
    rows = []
    for row in ROWS:
        if row.scenario not in medians:
            continue
        scenario = SCENARIOS.get(row.scenario)
        clients = (scenario.bare if scenario else "", "raw", "libpar")
        bare, raw, libpar = (medians[row.scenario].get(client, {}).get(row.key) for client in clients)
        ratio = ratios.get(row.scenario, {}).get(row.key) if libpar is not None else None
        variant = variants.get(row.scenario)
        title = f"{row.title} (by {variant})" if variant else row.title
        met = row.met(libpar, ratio)
        rows.append({"scenario": title, "bare": bare, "raw": raw, "libpar": libpar, "ratio": ratio, "target": row.target(), "met": met})
    return rows


def shown(value):
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(rows):
    header = ["scenario", "bare client", "raw socket", "libpar", "ratio", "target", ""]
    verdicts = {True: "met", False: "MISSED", None: ""}
    lines = [
        [row["scenario"], *(shown(row[key]) for key in ("bare", "raw", "libpar")),
         f"{row['ratio']:.2f}x" if row["ratio"] is not None else "-", row["target"], verdicts[row["met"]]]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    def line_of(cells):
        padded = [cell.ljust(width) if column in (0, 6) else cell.rjust(width) for column, (cell, width) in enumerate(zip(cells, widths))]
        return "  ".join(padded).rstrip()

    return "\n".join([line_of(header), "  ".join("-" * width for width in widths), *map(line_of, lines)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lib-dir", type=Path, default=ROOT / "target/release", help="where libpar.so is")
    parser.add_argument("--quick", action="store_true", help="three short rounds: two minutes instead of seven")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (5; 3 with --quick)")
    parser.add_argument("--only", help=f"some of: {', '.join(SCENARIOS)}", metavar="A,B")
    parser.add_argument("--no-build", action="store_true", help="take bench-server and bench-floor as they are")
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench.json", help="where the figures go as well")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SCENARIOS)
    if unknown := set(names) - SCENARIOS.keys():
        parser.error(f"no scenario {', '.join(unknown)}")

    library = build(options.lib_dir.resolve(), not options.no_build)
    rounds = options.rounds or (3 if options.quick else 5)
    started = time.monotonic()
    bench = Bench(options.quick, Path(os.environ.get("CARGO_TARGET_DIR", BENCHES / "target")), library)
    try:
        medians, ratios = measure(bench, names, rounds)
    finally:
        bench.stop()
    medians["size"] = {"libpar": {"mb": stripped_mb(library)}}
    rows = judge(medians, ratios, bench.variants)
    print(table(rows))
    judged = [row["met"] for row in rows if row["met"] is not None]
    took = time.monotonic() - started
    print(f"\n{sum(judged)} of {len(judged)} targets met; medians of {rounds} rounds, {took:.0f} s, library {library}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"library": str(library), "rounds": rounds, "quick": options.quick, "rows": rows, "medians": medians}
    options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
