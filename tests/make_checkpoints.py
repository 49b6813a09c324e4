"""Makes `tests/data/checkpoints` with PyTorch: `python tests/make_checkpoints.py` (2.13 made what is stored).

The networks' pickle is laid out as StyleGAN's `torch_utils.persistence` does it: a call of
`_reconstruct_persistent_obj` with the source, the name and the state of a class. The classes here are empty ones.
"""

import collections
import pickle
import sys
import types
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "data" / "checkpoints"


def tree() -> dict:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    model = collections.OrderedDict(
        weight=base,
        transposed=base.T,
        column=base[:, 1],
        part=base[1:, ::2],
        half=torch.tensor([1.5, -2.0]).half(),
        bfloat16=torch.tensor([1.5, -2.0]).bfloat16(),
        double=torch.tensor([[1e-300]], dtype=torch.float64),
        count=torch.tensor(7),
        bytes=torch.tensor([1, 255], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        complex=torch.tensor([1 + 2j]),
        empty=torch.zeros(0, 3),
    )
    model._metadata = collections.OrderedDict({"": {"version": 1}})
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    adam = torch.optim.Adam([weight], lr=1e-3)
    adam.step()
    return {
        "epoch": 3,
        "global_step": 1200,
        "checkpoint_callback_best": None,
        "optimizer_states": [adam.state_dict()],
        "state_dict": {"model": model, "disc": {"weight": torch.nn.Parameter(base[:1] + 0)}},
    }


def networks() -> dict:
    """Two nested persistent objects, a plain module without parameters, and a buffer that is not kept."""
    persistence = types.ModuleType("torch_utils.persistence")
    persistence._reconstruct_persistent_obj = lambda meta: None
    persistence._reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    persistence._reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    renderer = types.ModuleType("training.renderer")
    renderer.Renderer = type("Renderer", (torch.nn.Module,), {"__module__": "training.renderer"})
    sys.modules |= {m.__name__: m for m in (persistence, util, renderer)}
    sys.modules |= {n: types.ModuleType(n) for n in ("torch_utils", "dnnlib", "training")}

    class Persistent(torch.nn.Module):
        def __reduce__(self):
            meta = dict(
                type="class",
                version=6,
                module_src="raise SystemExit('must never run')",
                class_name=type(self).__name__,
                state=self.__dict__,
            )
            return persistence._reconstruct_persistent_obj, (meta,), None

    class Layer(Persistent):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
            self.register_buffer("filter", torch.ones(2))
            self.register_buffer("grid", torch.zeros(2), persistent=False)

    class Generator(Persistent):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(Layer(), torch.nn.Softplus())
            self.renderer = renderer.Renderer()
            self.init_kwargs = util.EasyDict(z_dim=512)

    return {"G_ema": Generator(), "training_set_kwargs": util.EasyDict(path="x"), "augment_pipe": None}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(tree(), FOLDER / "zip.ckpt")
    torch.save(tree(), FOLDER / "legacy.ckpt", _use_new_zipfile_serialization=False)
    (FOLDER / "networks.pkl").write_bytes(pickle.dumps(networks()))
