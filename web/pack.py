"""Make the npm package: the viewer, the weights that it reads, and an index that lets bundlers find them.

python web/pack.py dist          # writes dist/car-image-1.0.0-rc.1.tgz; the same source gives the same bytes
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from car.viewer import assets, shipped_web_models

ROOT = Path(__file__).parent.parent


def write(folder: Path) -> None:
    """Write the files of the package into an empty folder."""
    shutil.copytree(ROOT / "web" / "npm", folder, dirs_exist_ok=True)
    shutil.copy(ROOT / "LICENSE", folder)
    for name, content in assets().items():
        (folder / name).write_bytes(content)
    (folder / "models").mkdir()
    lines = ['import { addresses } from "./car-image.js";', "", 'export * from "./car-image.js";', ""]
    for weights, content in sorted(shipped_web_models().items()):
        (folder / "models" / f"{weights}.safetensors").write_bytes(content)
        address = f'new URL("./models/{weights}.safetensors", import.meta.url)'
        lines.append(f'addresses.set("{weights}", {address});')
    (folder / "index.js").write_text("\n".join([*lines, ""]))


def pack(target: Path) -> Path:
    """Write the package into the folder `target`, and return its path."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        command = [
            shutil.which("npm") or "npm",
            "pack",
            "--silent",
            "--pack-destination",
            str(target.resolve()),
        ]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=True)
    return target / done.stdout.split()[-1]


if __name__ == "__main__":
    print(pack(Path(sys.argv[1])))
