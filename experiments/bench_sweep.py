"""One ladder from the published way of sweeping to ours: 3 ranks x 3 learning rates x 4 temperatures, a change a rung.

    python -m experiments.bench_sweep --fresh                           (the tiny base, all rungs: under half an hour)
    python -m experiments.bench_sweep --base mid --rates 1 --part packed --part published

Rungs 0 to 5 are put together from trials measured in processes of their own, on some of their steps and utterances;
rungs 6 to 8 are the command itself, timed from outside. What was measured stays in FOLDER/BASE/found.json, so that
parts can be measured one by one and the tables, for experiments/bench_sweep.md, are printed of all that there are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from experiments.sweep_ladder import report
from experiments.sweep_ladder.checks import reference_of
from experiments.sweep_ladder.child import measure
from experiments.sweep_ladder.rungs import PACKS, SWEEPS, WAYS, Costs
from experiments.sweep_ladder.seconds import Seconds, now
from experiments.sweep_ladder.spec import Spec, Way
from experiments.sweep_ladder.sweep import adapter_of, run
from experiments.sweep_ladder.workload import Workload
from kimi_audio_ft.paths import CHECKOUT
from kimi_audio_ft.runtime.environment import git_commit

# Steps and utterances that are measured of a trial.
SIZES = {
    "tiny": {"published": (6, 8), "both_cores": (6, 8), "lean": (6, 8), "encoding": (2, 8), "cached": (8, 16),
             "batched": (54, 48), "decoding8": (3, 96), "together": (3, 96), "packs": (7, 0)},
    "mid": {"published": (2, 2), "both_cores": (2, 2), "lean": (2, 2), "encoding": (2, 2), "cached": (2, 4),
            "batched": (4, 8), "decoding8": (2, 16), "together": (2, 16), "packs": (3, 0)},
    "quick": {"published": (2, 2), "both_cores": (2, 2), "lean": (2, 2), "encoding": (2, 2), "batched": (3, 4),
              "together": (2, 8)},
}  # fmt: skip
# What a run measures unless it is told: first the sweep whose adapters are decoded.
PARTS = ("side_by_side", *WAYS, "one_base", "packed")
QUICK = ("packed", *SIZES["quick"])


@dataclass
class Bench:
    """The measurements of one workload.

    most: rates that a sweep is run for; the rest is scaled. inside: trials are measured in this process (quick).
    """

    work: Workload
    sizes: dict[str, tuple[int, int]]
    inside: bool
    most: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.file = self.work.folder / "found.json"
        self.found: dict[str, Any] = {}

    def measure(self, parts: list[str]) -> None:
        """Measure the parts, after what they need."""
        self.work.make()
        if self.file.is_file():
            self.found = json.loads(self.file.read_text(encoding="utf-8"))
        sweeps = {sweep.name: number for number, sweep in SWEEPS.items()}
        for part in parts:
            started = time.monotonic()
            if part in sweeps:
                self._sweep(sweeps[part])
            else:
                if reference_of(self.found) is None:
                    self._sweep("8")  # its adapters are decoded
                self._trials(part)
            self.file.write_text(json.dumps(self.found, ensure_ascii=False, indent=1), encoding="utf-8")
            self.say(f"{self.work.name}: {part} took {time.monotonic() - started:.0f} s")

    def _sweep(self, number: str) -> None:
        sweep = SWEEPS[number]
        some = replace(sweep, rates=min(sweep.rates, self.most))
        self.found[f"sweep {number}"] = run(self.work, some, not self.inside)

    def _trials(self, part: str) -> None:
        ways = {part: WAYS[part]} if part in WAYS else {f"pack {name}": way for name, way in PACKS.items()}
        for name, way in ways.items():
            self.found[name] = self._child(way, *self.sizes[part])

    def _child(self, way: Way, steps: int, utterances: int) -> dict[str, Any]:
        """What a process found; the mean seconds of several side by side."""
        reference = reference_of(self.found)
        assert reference is not None, "a sweep is measured first"
        sweep, work = self.found[reference], self.work if way.beside == 1 else replace(self.work, threads=1)
        trained = next(name for name in sweep["trials"] if self._is_middle(name))
        begin = now() if self.inside else Seconds(time.time(), 0.0)
        spec = Spec(work, way, steps, utterances, str(adapter_of(sweep, trained)), begin)
        if self.inside:
            os.environ["KIMI_AUDIO_FT_STORE"] = sweep["store"]
            return json.loads(json.dumps(measure(spec)))
        file = self.work.folder / "spec.json"
        file.write_text(json.dumps(spec.as_json()), encoding="utf-8")
        command = [sys.executable, "-m", "experiments.sweep_ladder.child", str(file)]
        environment = self.work.environment(Path(sweep["store"]).name)
        log = self.work.folder / "children.log"
        with log.open("a", encoding="utf-8") as errors:
            started = [
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
                for _ in range(way.beside)
            ]
            printed = [child.communicate()[0] for child in started]
        if any(child.returncode for child in started):
            raise SystemExit(f"a measured trial failed; see {log}")
        return mean_of([json.loads(text.splitlines()[-1]) for text in printed])

    def _is_middle(self, trial: str) -> bool:
        """Whether a trial has the adapter that children train and decode: the largest rank at the lowest rate."""
        return f"lora.r={self.work.ranks[-1]}," in trial and f"optim.lr={self.work.rates[0]:g}," in trial

    def costs(self) -> Costs:
        """Cost of a sweep on each rung, from everything measured."""
        steps = -(-self.work.lines("train") // 16) * self.work.epochs
        return Costs(self.work, self.found, steps, self.work.lines("eval"))


def mean_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The first of what several processes found, with everyone's mean seconds."""
    first, share = found[0], 1 / len(found)
    seconds = [key for key, value in first.items() if isinstance(value, dict) and value.keys() == {"wall", "cpu"}]
    means = {key: sum((Seconds(**one[key]) for one in found), Seconds()) * share for key in seconds}
    return first | {key: asdict(value) for key, value in means.items()}


def workload(base: str, folder: Path, threads: int) -> Workload:
    """The sweep of each base; the random one never ends an answer, so its answers are cut."""
    place = folder / base
    if base == "quick":
        return Workload(
            base, place, "tiny", recordings=4, epochs=1, max_new_tokens=20, ranks=(2, 4), rates=(1e-3,),
            temperatures=(0.0, 0.6), threads=1,
        )  # fmt: skip
    if base == "mid":
        return Workload(base, place, "mid", recordings=16, epochs=1, max_new_tokens=24, threads=threads)
    return Workload(base, place, "tiny", recordings=120, epochs=4, max_new_tokens=64, threads=threads)


def machine(note: str) -> str:
    """Where and when this was measured."""
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    facts = f"{os.cpu_count()} CPUs ({model}), Python {platform.python_version()}, {date.today():%d %B %Y}"
    return f"{facts}, commit {(git_commit() or 'unknown')[:10]}, load at the end {load}. {note}".strip()


def page(bench: Bench, clock: str, note: str, pictures: Path) -> str:
    """Everything that was measured, as Markdown."""
    work, costs = bench.work, bench.costs()
    picture = f"bench_sweep_{work.name}.png"
    report.picture(work, costs, clock, pictures / picture)
    parts = [
        f"`python -m experiments.bench_sweep` on {machine(note)}",
        f"## {work.name}: {costs.steps} optimizer steps of 16 conversations an adapter, {costs.utterances} utterances",
        report.table(work, costs, clock),
        report.parts_table(bench.found, clock),
        report.packs_table(bench.found, clock),
        f"![Cost against the number of trials]({picture})",
    ]
    return "\n\n".join(filter(None, parts))


def main() -> None:
    """Measure, print the tables, and write the page when asked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_sweep", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench_sweep"), help="where everything is kept")
    parser.add_argument("--base", choices=("tiny", "mid"), default="tiny", help="the model")
    parts = (*PARTS, "packs")
    parser.add_argument("--part", action="append", choices=parts, help="measure this only; default: all but packs")
    parser.add_argument("--quick", action="store_true", help="a small sweep of everything, to see that it works")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of a process; 0: one for every core")
    parser.add_argument("--rates", type=int, default=3, help="learning rates that real sweeps run; the rest is scaled")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where other jobs run beside")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--note", default="", help="a sentence for the page")
    parser.add_argument("--write", action="store_true", help="put the picture into experiments/")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    base = "quick" if options.quick else options.base
    if options.fresh:
        shutil.rmtree(folder / base, ignore_errors=True)
    work = workload(base, folder, options.threads)
    bench = Bench(
        work, SIZES[base], options.quick, options.rates, lambda words: print(words, file=sys.stderr, flush=True)
    )
    bench.measure(options.part or list(QUICK if options.quick else PARTS))
    print(page(bench, options.clock, options.note, CHECKOUT / "experiments" if options.write else folder))


if __name__ == "__main__":
    main()
