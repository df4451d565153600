"""Modules of a clone of Wan2.2, or of VideoX-Fun, imported where they lie, on a machine that has neither a GPU nor all
they ask for. Nothing of theirs is changed on the disk.

What is replaced as they run: flash attention, by torch's with the same meaning; bfloat16, by float32; packages that are
not installed, by stand-ins that exist while a module is imported and refuse to be called, but for the few parts that a
comparison goes through.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional

# Both look for optional packages as they are imported, and must not find a stand-in.
_ = (diffusers.DiffusionPipeline, diffusers.FlowMatchEulerDiscreteScheduler, diffusers.ModelMixin)
_ = (transformers.AutoTokenizer, transformers.T5Tokenizer)


class Attributes(dict[str, Any]):
    """A dictionary whose keys are attributes, as their configs have it."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


class Clip:
    """A video reader over the array that lies beside where the video would."""

    def __init__(self, path: str) -> None:
        self.frames = np.load(Path(path).with_suffix(".npy"))

    def __len__(self) -> int:
        return len(self.frames)

    def get_batch(self, index: list[int]) -> SimpleNamespace:
        return SimpleNamespace(asnumpy=lambda: self.frames[index])


class Normalize:
    """Per-channel statistics taken off."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def to_tensor(picture: Any) -> Tensor:
    """A picture to [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


TRANSFORMS = {
    "Compose": lambda steps: SimpleNamespace(transforms=steps),
    "InterpolationMode": SimpleNamespace(BICUBIC=None),
    "Normalize": Normalize,
    "Resize": lambda *_, **__: None,
    "ToTensor": lambda: None,
}
STAND_INS: dict[str, dict[str, Any]] = {
    "decord": {"VideoReader": Clip},
    "easydict": {"EasyDict": Attributes},
    "ftfy": {"fix_text": lambda text: text},  # what it would mend is not in the prompts here
    "omegaconf": {},
    "peft": {},
    "torchvision": {},
    "torchvision.transforms": TRANSFORMS,
    "torchvision.transforms.functional": {"to_tensor": to_tensor},
}


class StandIn(ModuleType):
    """A package that is not installed: any name can be imported from it, and refuses to be called."""

    def __init__(self, name: str, parts: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []
        self.__dict__.update(parts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"{self.__name__}.{name} is not here: {self.__name__} is not installed")

        return refuse


@contextmanager
def stand_ins() -> Iterator[None]:
    """Stand-ins for what is not installed, gone afterwards, so that no other package takes them for real."""
    absent = [name for name in STAND_INS if importlib.util.find_spec(name.partition(".")[0]) is None]
    made = {name: StandIn(name, STAND_INS[name]) for name in absent}
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent in made:
            setattr(made[parent], child, module)
    with mock.patch.dict(sys.modules):
        sys.modules.update(made)
        with mock.patch.object(torch.cuda, "current_device", return_value=0):  # a default argument of theirs asks
            before = set(sys.modules)
            yield
            imported = {name: sys.modules[name] for name in set(sys.modules) - before}
    sys.modules.update(imported)


def bare(name: str, folder: Path, **parts: Any) -> None:
    """A package whose own __init__ is not run, for it would import every model there is."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    module.__dict__.update(parts)
    sys.modules[name] = module


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_lens: Tensor | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **rest: Any,
) -> Tensor:
    """What flash attention computes: q, k, v [B, L, H, C]; of each k and v the first k_lens are seen."""
    if window_size != (-1, -1) or any(rest.get(name) for name in ("q_lens", "dropout_p", "softmax_scale", "q_scale")):
        raise NotImplementedError(f"no comparison needs {rest} and a window of {window_size}")
    rows = []
    for i in range(len(q)):
        seen = k.shape[1] if k_lens is None else int(k_lens[i])
        heads = (x.transpose(0, 1) for x in (q[i], k[i, :seen], v[i, :seen]))
        rows.append(functional.scaled_dot_product_attention(*heads, is_causal=causal).transpose(0, 1))
    return torch.stack(rows)


class Torch32(ModuleType):
    """torch as one module of theirs sees it: bfloat16 is float32, no autocast, and parts replaced by name."""

    def __init__(self, **parts: Any) -> None:
        super().__init__("torch")
        plain = {"bfloat16": torch.float32, "autocast": lambda *_, **__: nullcontext()}
        self.__dict__.update({**plain, **parts})

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def exact(scheduler: type) -> type:
    """A scheduler of theirs whose timesteps are 1000 sigma, not cut to integers."""
    plain: Callable[..., None] = scheduler.set_timesteps  # type: ignore[attr-defined]

    @wraps(plain)
    def set_timesteps(self: Any, *arguments: Any, **named: Any) -> None:
        plain(self, *arguments, **named)
        self.timesteps = 1000 * self.sigmas[:-1]

    return type(scheduler.__name__, (scheduler,), {"set_timesteps": set_timesteps})


@contextmanager
def run_as(module: ModuleType, *, integers: bool = False, **parts: Any) -> Iterator[None]:
    """One of their pipelines in float32, its timesteps exact unless `integers`; parts: of its torch."""
    names = [name for name in vars(module) if name.startswith("Flow") and name.endswith("MultistepScheduler")]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(module, "torch", Torch32(**parts)))
        if hasattr(module, "tqdm"):
            stack.enter_context(mock.patch.object(module, "tqdm", iter))
        for name in [] if integers else names:
            stack.enter_context(mock.patch.object(module, name, exact(getattr(module, name))))
        yield


def import_wan(root: Path) -> SimpleNamespace:
    """The modules of a clone of Wan2.2, by their last names."""
    names = ("modules.model", "modules.t5", "modules.tokenizers", "modules.vae2_1", "modules.vae2_2")
    names += ("modules.attention", "modules.animate.clip", "modules.animate.face_blocks")
    names += ("modules.animate.model_animate", "modules.animate.motion_encoder", "configs", "utils.fm_solvers")
    names += ("utils.fm_solvers_unipc", "text2video", "image2video", "textimage2video", "animate")
    with stand_ins():
        bare("wan", root / "wan")
        wan = SimpleNamespace(**{name.rpartition(".")[2]: importlib.import_module(f"wan.{name}") for name in names})
    for module in (wan.attention, wan.model, wan.model_animate, wan.clip):
        module.flash_attention = attention
    wan.face_blocks.flash_attn_func = attention
    return wan


def import_videox(root: Path) -> SimpleNamespace:
    """The modules of a clone of VideoX-Fun that its VACE and control models need; they can use torch's attention."""
    base = root / "videox_fun"
    absent = ("get_sequence_parallel_rank", "get_sequence_parallel_world_size", "get_sp_group", "usp_attn_forward")
    with stand_ins():
        bare("videox_fun", base)
        bare("videox_fun.dist", base / "dist", xFuserLongContextAttention=None, **dict.fromkeys(absent))
        bare("videox_fun.utils", base / "utils")
        optimization = importlib.import_module("videox_fun.utils.cfg_optimization")
        sys.modules["videox_fun.utils"].cfg_skip = optimization.cfg_skip  # type: ignore[attr-defined]
        bare("videox_fun.models", base / "models", AutoTokenizer=None, WanT5EncoderModel=None)
        bare("videox_fun.models.attention_kernel", base, _sparse_linear_attention=None, get_block_map=None)
        bare("videox_fun.pipeline", base / "pipeline")
        models = sys.modules["videox_fun.models"]
        fun = SimpleNamespace(root=root, vae=importlib.import_module("videox_fun.models.wan_vae"))
        fun.transformer = importlib.import_module("videox_fun.models.wan_transformer3d")
        fun.vace = importlib.import_module("videox_fun.models.wan_transformer3d_vace")
        models.AutoencoderKLWan = fun.vae.AutoencoderKLWan  # type: ignore[attr-defined]
        models.Wan2_2Transformer3DModel = fun.transformer.Wan2_2Transformer3DModel  # type: ignore[attr-defined]
        models.VaceWanTransformer3DModel = fun.vace.VaceWanTransformer3DModel  # type: ignore[attr-defined]
        fun.control_pipeline = importlib.import_module("videox_fun.pipeline.pipeline_wan2_2_fun_control")
        fun.vace_pipeline = importlib.import_module("videox_fun.pipeline.pipeline_wan2_2_vace_fun")
    return fun
