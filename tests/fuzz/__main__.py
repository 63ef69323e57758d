# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.fuzz``: the readers of what others write, against any bytes (atheris).

Each target runs in a process of its own, guided by the coverage of the
readers' code, and begins with what a real guest has written (seeds.py) and
with what earlier runs have found (``build/fuzz/TARGET``).  A run fails on any
exception that the reader does not announce, on an input that takes more than
a second of CPU time, and when the process grows beyond its limit.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CORPUS = PROJECT / "build/fuzz"

#: Which module has a target, and the bytes of its longest input.
TARGETS = {
    "relay": ("readers", 70_000),
    "records": ("readers", 1024),
    "points": ("readers", 512),
    "words": ("readers", 70_000),
    "life": ("readers", 4096),
    "cchan": ("readers", 8192),
    "guest": ("readers", 262_144),
    "region": ("others", 8192),
    "xenstore": ("others", 1024),
    "tools": ("others", 2048),
    "ivshmem_server": ("others", 2048),
    "socket": ("others", 4096),
    "group": ("clients", 140_000),
    "texts": ("clients", 4096),
}
#: s of CPU time that one input may take.
MAX_CPU_S = 1.0
#: MiB that a process may have, with all code and the corpus.
MAX_MEMORY_MIB = 512
#: s that nothing may take, however busy the machine is.
ENDLESS_S = 120


@dataclass(frozen=True)
class Result:
    target: str
    executions: int
    seconds: float
    coverage: int  #: edges, of libFuzzer's count
    wrong: str  #: the end of what was said; empty: nothing


def child(target: str, arguments: list[str]) -> None:
    """Fuzz one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["vesper_monitor", "xen_transport", "kvm_transport"]):
        module = __import__(f"tests.fuzz.{TARGETS[target][0]}", fromlist=[target])
    function = getattr(module, target)

    def one(data: bytes) -> None:
        start = time.thread_time()
        function(data)
        taken = time.thread_time() - start
        assert taken < MAX_CPU_S, f"{taken:.2f} s of CPU time for one input"

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def fuzz(target: str, *, runs: int, seconds: int = 0) -> Result:
    """One piece of work on one target.

    :param runs: executions.
    :param seconds: end after that, however many there were; 0: no limit.
    """
    from tests.fuzz.seeds import seeds

    corpus = CORPUS / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(data)
    found = CORPUS / "found"
    found.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "tests.fuzz", "--child", target,
        f"-runs={runs}", f"-max_total_time={seconds}", f"-max_len={TARGETS[target][1]}",
        f"-rss_limit_mb={MAX_MEMORY_MIB}", f"-timeout={ENDLESS_S}", "-print_final_stats=1",
        f"-artifact_prefix={found}/{target}-", str(corpus),
    ]  # fmt: skip
    start = time.monotonic()
    # The child ends without cleaning up behind itself.
    with tempfile.TemporaryDirectory(prefix="vesper-fuzz-", dir="/dev/shm") as folder:
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, errors="replace",
            env={**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": folder},
        )  # fmt: skip
    taken = time.monotonic() - start
    said = done.stderr + done.stdout
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    covered = re.findall(r" cov: (\d+) ", said)
    wrong = "" if done.returncode == 0 and executed else said[-4000:]
    return Result(
        target, int(executed[1]) if executed else 0, taken, int(covered[-1]) if covered else 0,
        wrong,
    )  # fmt: skip


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions in all")
    parser.add_argument("--seconds", type=int, default=0, help="at most, of each; 0: no limit")
    options = parser.parse_args()
    targets = options.targets or list(TARGETS)
    total = failed = 0
    start = time.monotonic()
    for target in targets:
        result = fuzz(
            target, runs=-(-options.runs // len(targets)), seconds=options.seconds
        )
        total += result.executions
        print(
            f"{target:10} {result.executions:>10} executions {result.seconds:>8.0f} s "
            f"{result.executions / result.seconds:>8.0f} /s  coverage {result.coverage}",
            flush=True,
        )
        if result.wrong:
            failed += 1
            print(result.wrong, file=sys.stderr, flush=True)
    print(f"{total} executions in {time.monotonic() - start:.0f} s, {failed} targets failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
