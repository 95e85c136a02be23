"""Many thousand damaged, lying and hostile pictures, in processes with limits of time and memory.

    python tools/fuzz.py               # 20,000 files
    python tools/fuzz.py --first 20000 --count 100000

Every file must be worked on or refused with one line, within 10 seconds of processor time and 1 GB of
memory beyond what the program needs for itself. A process that ends, hangs or grows shows which file it was
at. Prints the figures.
"""

import argparse
import collections
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS, MEMORY = 10, 10**9
WAIT = 300  # seconds without an answer, whatever else the machine does


def work(first: int, count: int) -> None:
    import resource
    import warnings

    sys.path.insert(0, str(ROOT / "tests"))
    import torch

    from mutants import survive

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    survive(0)
    survive(first)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders written in C talk
    for number in range(first, first + count):
        begin = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(begin) + SECONDS + 1, resource.RLIM_INFINITY))
        try:
            outcome = survive(number)
        except BaseException as error:
            outcome = f"fault {type(error).__name__}: {error}".replace("\n", " ")
        print(number, f"{time.process_time() - begin:.3f}", outcome, flush=True)


def watch(first: int, count: int, outcomes: collections.Counter[str], times: list[float]) -> list[str]:
    faults: list[str] = []
    end = first + count
    while first < end:
        line = [sys.executable, __file__, "--work", "--first", str(first), "--count", str(end - first)]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None
        selector = selectors.DefaultSelector()
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(WAIT):
                faults.append(f"{first}: no answer within {WAIT} s")
                process.kill()
                break
            text = process.stdout.readline()
            if not text:
                break
            number, seconds, outcome = text.rstrip().split(" ", 2)
            first = int(number) + 1
            times.append(float(seconds))
            outcomes[outcome.split(" ")[0]] += 1
            if outcome.startswith("fault"):
                faults.append(f"{number}: {outcome}")
        if process.wait() != 0 and first < end:
            faults.append(f"{first}: the process ended with {process.returncode}")
            first += 1
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.first, options.count)
        return
    begin, outcomes, times = time.monotonic(), collections.Counter[str](), list[float]()
    faults = watch(options.first, options.count, outcomes, times)
    for fault in faults:
        print(fault)
    print(
        f"{sum(outcomes.values())} files in {time.monotonic() - begin:.0f} s: {dict(outcomes)}, "
        f"slowest {max(times):.2f} s, {len(faults)} faults"
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
