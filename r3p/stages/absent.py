"""Zeros in place of files that a stage reads, for planning: how large a step is depends on their shapes alone."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import weights

Tree = Any


def _zeros(init: Any, *arguments: Any) -> Tree:
    shapes = jax.eval_shape(init, jax.random.key(0), *arguments)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _perceptual() -> tuple[Tree, dict[str, Any]]:
    from r3p.models.perceptual import PerceptualLoss

    image = jnp.zeros((1, 64, 64, 3))
    return _zeros(PerceptualLoss(size=64).init, image, image), {"kind": "perceptual", "fields": {}}


def _eg3d() -> tuple[Tree, dict[str, Any]]:
    from r3p.models.eg3d import EG3D, PUBLISHED

    camera = jnp.zeros((1, 25))
    trees = _zeros(EG3D(**PUBLISHED).init, jnp.zeros((1, 512)), camera, camera)
    return trees, {"kind": "eg3d", "fields": dict(PUBLISHED)}


def _syncnet(config: ConfigDict) -> tuple[Tree, dict[str, Any]]:
    from r3p.models.syncnet import SyncNet

    landmarks = 468 * 3
    trees = _zeros(SyncNet().init, jnp.zeros((1, 10, config.data.features)), jnp.zeros((1, 5, landmarks)))
    return trees, {"kind": "syncnet", "model": {}}


def stand_in(config: ConfigDict, folder: Path) -> list[str]:
    """Sets the config's fields that name no file, or one that is not there, to files of zeros in `folder`.

    Returns:
      What they stand in for.
    """

    def lacks(path: str) -> bool:
        return not (path and Path(path).expanduser().exists())

    told = []

    def write(section: ConfigDict, field: str, name: str, made: tuple[Tree, dict[str, Any]]) -> None:
        section[field] = str(folder / f"{field}.npz")
        weights.save(section[field], *made)
        told.append(name)

    perceptual = config.get("perceptual")
    if perceptual and perceptual.get("kind") == "vgg":
        given = [perceptual.weights] if perceptual.weights else [perceptual.vgg19, perceptual.vggface]
        if any(map(lacks, given)):
            write(perceptual, "weights", "VGG19 and VGGFace", _perceptual())
    data = config.get("data", {})
    if data.get("teacher") == "eg3d" and lacks(data.eg3d):
        write(data, "eg3d", "EG3D", _eg3d())
    if data.get("bfm") and lacks(data.bfm):
        data.bfm = ""  # as many coefficients and landmarks
        told.append("the BFM")
    if "syncnet" in config and config.loss.sync and lacks(config.syncnet):
        write(config, "syncnet", "SyncNet", _syncnet(config))
    return told
