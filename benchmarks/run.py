"""All measurements of speed, memory and size, in one program.

    python benchmarks/run.py                   # lists the benchmarks
    python benchmarks/run.py models op         # measures; let nothing else run
    python benchmarks/run.py bulk --data photos/ --rounds 1
    python benchmarks/run.py all --data photos/    # every benchmark, several hours
    python benchmarks/run.py models --help     # what is measured, and how
    python benchmarks/run.py tables            # writes the tables of the pages again

Each machine has a folder in ``benchmarks/results/``, with one file for each benchmark. A table in ``docs/``
shows the newest run, whole: no table mixes figures of two runs.
"""

import argparse
import importlib
import itertools
import sys
from types import ModuleType

from common import Results, about, folder_of, machine, record, recorded, show

NAMES = (
    "models",
    "op",
    "startup",
    "serve",
    "bulk",
    "million",
    "large",
    "train",
    "viewer",
    "page_weight",
    "budget",
    "preview",
    "robust",
    "gpu",
)


def module_of(name: str) -> ModuleType:
    if name not in NAMES:
        raise SystemExit(f"there is no benchmark {name}; there are: {', '.join(NAMES)}")
    return importlib.import_module(name)


def options_of(module: ModuleType, words: list[str], *, strict: bool) -> argparse.Namespace:
    """Return the options of a benchmark; those of others are passed over unless `strict`."""
    parser = argparse.ArgumentParser(
        prog=f"run.py {module.__name__}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if hasattr(module, "add_options"):
        module.add_options(parser)
    return parser.parse_args(words) if strict else parser.parse_known_args(words)[0]


def table_of(module: ModuleType, results: Results) -> str:
    """Return the table of a benchmark in its page, under a line about the machine."""
    return f"{about(results['machine'])}.\n\n{module.table(results)}"


def tables() -> None:
    """Write every table from the newest results."""
    for name in NAMES:
        if results := recorded(name):
            module = module_of(name)
            show(name, module.PAGE, table_of(module, results[0]))
    show("machines", "benchmarks.md", module_of("models").machines(recorded("models")))


def main() -> None:
    words = sys.argv[1:]
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    rest = words[len(names) :]
    if names == ["tables"]:
        tables()
        return
    if not names:
        print(__doc__)
        for name in NAMES:
            print(f"  {name:12} {(module_of(name).__doc__ or '').splitlines()[0]}")
        return
    every = names == ["all"]
    chosen = [module_of(name) for name in (NAMES if every else names)]
    parsed = [options_of(module, rest, strict=len(chosen) == 1) for module in chosen]
    for module, options in zip(chosen, parsed, strict=True):
        print(f"{module.__name__}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        here = machine()
        results = module.measure(options)
        record(module.__name__, {"machine": here | results.pop("machine", {}), **results})
        tables()
        print(f"written: {folder_of(here).name}/{module.__name__}.json, docs/{module.PAGE}", flush=True)


if __name__ == "__main__":
    main()
