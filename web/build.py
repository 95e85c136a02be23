"""Compile network.c to the WebAssembly that the viewer loads.

pip install ziglang==0.13.0
python web/build.py            # writes src/car/viewer/network.wasm
python web/build.py --check    # fails if the committed file does not match the source
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "web" / "network.c"
TARGET = ROOT / "src" / "car" / "viewer" / "network.wasm"


def build(target: Path) -> None:
    """Compile into `target`."""
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding"]
    # fused multiplication and addition would make results depend on the processor
    command += ["-mcpu=generic+simd128+bulk_memory", "-ffp-contract=off"]
    command += ["-O3", "-nostdlib", "-g0", "-Wl,--no-entry,--strip-all,--export=__heap_base"]
    subprocess.run([*command, "-o", str(target), str(SOURCE)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        build(TARGET)
        print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes")
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made.wasm")
        build(made)
        if made.read_bytes() != TARGET.read_bytes():
            sys.exit(f"{TARGET.name} is not what {SOURCE.name} gives; run python web/build.py")


if __name__ == "__main__":
    main()
