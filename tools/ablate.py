"""Train one recipe with one change at a time, each for the same time, and print what came out.

    python tools/ablate.py car_plus_x4 --data photos/ --out runs/ablate luma_weight=0,1 rounding=soft ema=0
    python tools/ablate.py car_plus_x4 --data photos/ --out runs/ablate network=48_9_9,couplings,car_lite_x4

The first run is the recipe as it is, but for what --base changes in all; `network` takes a model or one of
tools/variants.py. Numbers are validation PSNR on luma and of the LR against the bicubic LR, on centre crops
of images held out of training; the test sets are not looked at. Runs should have the same part of the machine
to themselves, such as a core each. Those that are there already are not done again. With --page the table
goes into that file, between ``<!-- ablation MODEL -->`` and ``<!-- end of ablation MODEL -->``.
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from variants import register_variants

from car.train.log import read_log
from car.train.recipes import Recipe, recipe_for
from car.train.run import Run


def parsed(name: str, text: str) -> Any:
    if name == "network":
        return text
    default = {f.name: f.default for f in fields(Recipe)}[name]
    if isinstance(default, bool):
        return {"true": True, "false": False}[text.lower()]
    return type(default)(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("changes", nargs="*", metavar="SETTING=VALUE,...")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--base", nargs="+", default=[], metavar="SETTING=VALUE", help="in all runs")
    parser.add_argument("--page", type=Path)
    options = parser.parse_intermixed_args()
    variants = register_variants()
    base = {name: parsed(name, value) for name, value in (change.split("=", 1) for change in options.base)}
    runs: list[dict[str, Any]] = [{}]
    for change in options.changes:
        name, values = change.split("=", 1)
        runs += [{name: parsed(name, value)} for value in values.split(",")]
    lines = [
        "| changed | steps | restored, dB | small to bicubic, dB |",
        "|---|---|---|---|",
    ]
    for run in runs:
        label = ", ".join(f"{name} = {value}" for name, value in run.items())
        out = options.out.joinpath(options.model, *options.base, label.replace(" ", "") or "recipe")
        if not (out / "curves.png").exists():
            changes = {name: value for name, value in run.items() if name != "network"}
            recipe = recipe_for(options.model, minutes=options.minutes, **(base | changes))
            network = run.get("network", options.model)
            recipe = replace(recipe, model=variants.get(network, network))
            Run(recipe, options.data, out, cache=options.cache or options.out / "cache").train()
        last = read_log(out)[-1]
        cells = f"{last['step']:,} | {last['psnr']:.2f} | {last['lr_psnr']:.1f}"
        lines.append(f"| {f'`{label}`' if label else 'nothing'} | {cells} |")
        print(lines[-1], flush=True)
    if options.page:
        begin, end = f"<!-- ablation {options.model} -->", f"<!-- end of ablation {options.model} -->"
        before, rest = options.page.read_text().split(begin)
        table = "\n".join(lines)
        options.page.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
