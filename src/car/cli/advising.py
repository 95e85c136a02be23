"""The command that compares ways to keep a picture: advise."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from car.cli.common import Showing, app, print_json, progress, stdout
from car.cli.options import with_options
from car.codec.options import Options
from car.measure.advice import ADVISED, Offer, advise, settings_of, verdict
from car.measure.evaluate import finite, told


@app.command("advise")
@with_options("device", "threads", "fast", "tile", "max_pixels")
def advise_command(
    image: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    *,
    scale: Annotated[
        list[float] | None,
        typer.Option("--scale", "-s", help="Scale of small pictures; repeatable. Default: 1.5, 2, 3 and 4."),
    ] = None,
    showing: Showing,
    options: Options,
) -> None:
    """Compare small files of a picture with files of it at full size: bytes, quality, the best of them.

    Every file is made and restored. A star marks the front: no other file has as few bytes and as high an
    SSIMULACRA2. The last line says which small pictures are on the front, and whether a file at full size
    makes them needless.

    For example:

    ```
    car advise photo.jpg
    car advise drawing.png --scale 2 --json
    ```
    """
    scales = sorted(set(scale or ADVISED))
    with progress(len(settings_of(scales)), "comparing", showing.text) as advance:
        offers = advise(image, scales=scales, options=options, on_trial=lambda _: advance())
    if showing.as_json:
        rows = [finite(asdict(offer)) for offer in offers]
        print_json({"source": str(image), "offers": rows, "verdict": verdict(offers)})
    elif showing.text:
        stdout.print(_table(offers, image))
        stdout.print(verdict(offers))


def _table(offers: tuple[Offer, ...], image: Path) -> Any:
    from rich.table import Table

    table = Table("front", "scale", "format", "quality", title=f"Files of {image}")
    table.columns[3].no_wrap = True
    for name in ("bytes", "PSNR", "RGB", "SSIMULACRA2"):
        table.add_column(name, justify="right", no_wrap=True)
    for offer in sorted(offers, key=lambda offer: offer.bytes):
        table.add_row(
            "*" if offer.front else "",
            "full" if offer.scale == 1 else f"{offer.scale:g}x",
            offer.format,
            "lossless" if offer.quality is None else str(offer.quality),
            f"{offer.bytes:,}",
            told(offer.psnr, ".2f"),
            told(offer.psnr_rgb, ".2f"),
            told(offer.ssimulacra2, ".1f"),
        )
    return table
