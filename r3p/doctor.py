"""`r3p doctor`: versions, devices, files and their hashes, what is broken and how to mend it, what could be added."""

import argparse
import hashlib
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from r3p import __version__
from r3p.assets import asset_path, cache_dir
from r3p.assets.fetch import PACKAGES
from r3p.errors import InputError

# distribution: the module that has to import
_PACKAGES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax-checkpoint": "orbax.checkpoint",
    "grain": "grain",
    "numpy": "numpy",
    "scipy": "scipy",
    "opencv-python": "cv2",
    "av": "av",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}
_SHIPPED = ("head.npz", "portrait.npz", "audio2motion.npz", "speech.wav", "astronaut.jpg")
_CODECS = ("libx264", "aac")
# Weights that nobody may pass on: what each would enable, and how it is given.
OPTIONAL = {
    "Inception (December 2015)": "FID and KID: r3p convert, then r3p eval --network inception=WEIGHTS",
    "ArcFace": "CSIM: r3p convert, then r3p eval --network arcface=WEIGHTS",
    "Deep3DFaceRecon": "AED and APD of the paper: r3p convert, then r3p eval --network deep3d=WEIGHTS",
    "SyncNet v2": "LSE-C and LSE-D: r3p convert, then r3p eval --network syncnet=WEIGHTS",
    "BFM 2009 and its expression basis": "the official face model: r3p.face.from_bfm",
    "official Real3D-Portrait checkpoints": "the paper's own weights: r3p convert",
}


@dataclass(frozen=True)
class Finding:
    """state: "ok", "broken" (with the fix) or "optional"."""

    group: str
    name: str
    state: str
    text: str
    fix: str = ""


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _versions() -> list[Finding]:
    out = [Finding("versions", "python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    out.append(Finding("versions", "r3p", "ok", __version__))
    for name, module in _PACKAGES.items():
        try:
            found = version(name)
            importlib.import_module(module)
            out.append(Finding("versions", name, "ok", found))
        except PackageNotFoundError:
            out.append(Finding("versions", name, "broken", "is not installed", "pip install --upgrade r3p"))
        except Exception as e:  # a package that is there and does not import may raise anything
            fix = f"pip install --force-reinstall {name}"
            out.append(Finding("versions", name, "broken", f"does not import ({type(e).__name__}: {e})", fix))
    return out


def _devices() -> list[Finding]:
    try:
        import jax

        kinds = [f"{d.platform} {d.device_kind}" for d in jax.devices()]
    except Exception as e:  # RuntimeError where no backend starts, ImportError without jax, others from plugins
        fix = "set JAX_PLATFORMS=cpu, or install the jax that fits the accelerator's driver"
        return [Finding("devices", "jax", "broken", f"finds no device ({e})", fix)]
    text = ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))
    return [Finding("devices", "jax", "ok", text), Finding("devices", "processors", "ok", str(os.cpu_count()))]


def _shipped() -> list[Finding]:
    folder = Path(__file__).parent / "assets"
    out = []
    for name in _SHIPPED:
        path = folder / name
        if path.is_file():
            out.append(Finding("shipped files", name, "ok", f"sha256 {_sha256(path)}"))
        else:
            fix = "pip install --force-reinstall r3p"
            out.append(Finding("shipped files", name, "broken", f"is not in {folder}", fix))
    return out


def _fetched() -> list[Finding]:
    out = []
    for group, package in PACKAGES.items():
        for name in package.members:
            try:
                out.append(Finding("fetched files", name, "ok", f"sha256 {_sha256(asset_path(name))}"))
            except InputError as e:
                fix = f"r3p assets --only {group} ({package.purpose})"
                out.append(Finding("fetched files", name, "broken", str(e).split(":")[0], fix))
    folder = cache_dir()
    near = next(p for p in (folder, *folder.parents) if p.exists())
    if os.access(near, os.W_OK):
        out.append(Finding("fetched files", "cache", "ok", str(folder)))
    else:
        fix = "set R3P_CACHE to a folder that can be written"
        out.append(Finding("fetched files", "cache", "broken", f"{folder} cannot be written", fix))
    return out


def _media() -> list[Finding]:
    try:
        import av

        missing = [c for c in _CODECS if c not in av.codecs_available]
    except ImportError:
        return []  # said among the versions
    if missing:
        fix = "pip install --force-reinstall --only-binary :all: av"
        return [Finding("media", "codecs", "broken", f"{', '.join(missing)} cannot be written", fix)]
    return [Finding("media", "codecs", "ok", ", ".join(_CODECS))]


def _optional() -> list[Finding]:
    return [Finding("not shipped", name, "optional", f"would enable {text}") for name, text in OPTIONAL.items()]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (_versions, _devices, _shipped, _fetched, _media, _optional)


def examine() -> list[Finding]:
    """All that can be said of this installation."""
    return [finding for check in CHECKS for finding in check()]


def main(argv: Sequence[str]) -> int:
    """Prints the findings; 1 when something that is needed is broken."""
    parser = argparse.ArgumentParser(prog="r3p doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(list(argv))
    findings = examine()
    broken = [f for f in findings if f.state == "broken"]
    if args.json:
        print(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        for group in dict.fromkeys(f.group for f in findings):
            print(f"{group}:")
            for f in findings:
                if f.group == group:
                    mark = {"ok": "ok      ", "broken": "BROKEN  ", "optional": "absent  "}[f.state]
                    print(f"  {mark}{f.name}: {f.text}")
                    if f.fix:
                        print(f"          fix: {f.fix}")
        print(f"{len(broken)} broken" if broken else "nothing that is needed is broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
