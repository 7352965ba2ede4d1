"""The training loops that are compared, each as something that takes one step when called.

The peers' loops do per step what the originals do: diffusers'
``examples/unconditional_image_generation/train_unconditional.py`` (at 0.42), lucidrains' own
``Trainer``, driven step by step, and the plain loop of a course's homework.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measurement import PLAIN_TRAINING
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ddpm_kedro.diffusion.interchange import to_diffusers
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision, choose_precision
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.pixels import normalise
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.acceleration import make_step
from ddpm_kedro.training.step.data_feed import DataFeed, EpochOrder
from ddpm_kedro.training.step.generators import derived_seed
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

OURS = "ddpm_kedro"
NETWORKS = {
    "ddpm": {"type": f"{OURS}.diffusion.backbones.DDPMUNet", "dropout": 0.1},
    "homework": {"type": f"{OURS}.diffusion.backbones.HomeworkUNet"},
    "compact": {  # of conf/base, here on images of 32x32
        "type": f"{OURS}.diffusion.backbones.CompactUNet",
        "base_channels": 32, "channel_mults": [1, 2], "blocks_per_level": 1, "attention_levels": [],
    },
    "ddpm_small": {  # of the same layout, to try the scripts with
        "type": f"{OURS}.diffusion.backbones.DDPMUNet",
        "base_channels": 64, "channel_mults": [1, 1], "blocks_per_level": 1, "dropout": 0.1,
    },
    "ddpm_tiny": {
        "type": f"{OURS}.diffusion.backbones.DDPMUNet",
        "base_channels": 32, "channel_mults": [1, 1], "blocks_per_level": 1, "dropout": 0.1,
        "num_groups": 16,
    },
}  # fmt: skip
LUCIDRAINS = ("denoising_diffusion_pytorch", "accelerate", "ema_pytorch", "einops")
NUM_IMAGES = {"cpu": 2048, "cuda": 25_600}  # an epoch is longer than a measurement
Step = Callable[[], None]


def random_images(num_images: int) -> ImageSet:
    """Images of 32x32 in colour; what is in them does not change how long a step takes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (num_images, 3, 32, 32), dtype=np.uint8)
    return ImageSet(pixels, None, ())


def settings_for(network: str, batch_size: int, **changes: Any) -> TrainingSettings:
    """The presets' choices for CIFAR-10: AdamW's equal, flips, clipping, one average."""
    values: dict[str, Any] = {
        "batch_size": batch_size,
        "budget_kimg": 100_000.0,
        "augmentation": {"type": f"{OURS}.training.augmentation.Flip"},
        "backbone": NETWORKS[network],
        "noise_schedule": {"type": f"{OURS}.diffusion.noise_schedule.LinearSchedule"},
        "objective": {"type": f"{OURS}.diffusion.objective.EpsilonPrediction"},
        "loss_weight": {"type": f"{OURS}.diffusion.loss_weight.UniformWeight"},
        "timesteps": {"type": f"{OURS}.diffusion.timesteps.UniformTimesteps"},
        "optimizer": {"type": "torch.optim.AdamW", "lr": 1e-4},
        "lr_schedule": {"type": f"{OURS}.training.lr_schedule.LinearWarmup", "warmup_kimg": 8},
        "sampler": {"type": f"{OURS}.diffusion.samplers.DDIM", "num_steps": 20},
        "ema": {"halflives_kimg": [500.0], "warmup_ratio": 0.05},
        "seed": 0,
        "clip_norm": 1.0,
    }
    return TrainingSettings(**{**PLAIN_TRAINING, **values, **changes})


def new_model(network: str, device: torch.device) -> Model:
    """A model whose network has the same weights each time."""
    torch.manual_seed(0)
    model = Model(model_spec(random_images(2), settings_for(network, 1)))
    model.network.to(device).train()
    return model


# Ours --------------------------------------------------------------------------------------------


def engine(
    network: str,
    batch_size: int,
    device: torch.device,
    *,
    precision: str = "auto",
    compile: str = "auto",
    num_steps: int = 1_000_000,
) -> tuple[Step, Precision]:
    """The engine's own step, fed as ``TrainingRun`` feeds it; and the precision it chose.

    ``num_steps`` is how long the training would be, which decides about compiling. Left out of the
    loop here are records, previews and checkpoints; ``overhead.py`` measures the first, the others
    have intervals that the user chooses.
    """
    budget_kimg = num_steps * batch_size / 1000
    settings = settings_for(
        network, batch_size, budget_kimg=budget_kimg, precision=precision, compile=compile
    )
    chosen = choose_precision(settings.precision, device)
    model = new_model(network, device)
    state = LearningState(model, settings)
    images = random_images(NUM_IMAGES[device.type])
    feed = DataFeed(
        images.images,
        None,
        EpochOrder(np.arange(len(images), dtype=np.int32), settings.seed),
        batch_size=batch_size,
        part=slice(0, batch_size),
        device=device,
    )
    batches = feed.batches(0)
    step = make_step(state, chosen, Team())

    def take() -> None:
        with chosen.product_mode():
            pixels, labels = next(batches)
            torch.manual_seed(derived_seed(settings.seed, 0, state.step, 0))
            state.set_rates()
            step(pixels, labels)
            state.advance()

    return take, chosen


# diffusers ---------------------------------------------------------------------------------------


class ScriptImages(Dataset):
    """Pictures through the script's transforms: resize, crop, flip, to a tensor, to [-1, 1]."""

    def __init__(self, images: ImageSet) -> None:
        from torchvision import transforms

        self.pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images.images]
        self.transform = transforms.Compose(
            [
                transforms.Resize(32, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.RandomCrop(32),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.pictures[index].convert("RGB"))


def diffusers_network(network: str, device: torch.device) -> nn.Module:
    """A ``UNet2DModel`` of the layout and with the weights of ours."""
    from diffusers import UNet2DModel

    ours = new_model(network, torch.device("cpu"))
    exported = to_diffusers(ours)
    config = {key: value for key, value in exported.unet.items() if not key.startswith("_")}
    theirs = UNet2DModel(**config)
    theirs.load_state_dict(dict(exported.weights))
    return theirs.to(device).train()


def diffusers_script(
    network: str,
    batch_size: int,
    device: torch.device,
    *,
    mixed_precision: str = "no",
    tuned: bool = False,
    compile: bool = False,
) -> Step:
    """The script's loop; accelerate's part of it written out for one process.

    Args:
        network: of ours, whose layout theirs gets.
        batch_size: images of a step.
        device: where.
        mixed_precision: its flag, "no" or "bf16"; the latter casts the images and the noise, too.
        tuned: what a user can set without rewriting it: channels-last weights, a fused AdamW, a
            foreach average, TF32, workers that load while the GPU computes.
        compile: its network through torch.compile.
    """
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    model = diffusers_network(network, device)
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    average = EMAModel(
        model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4,
        foreach=tuned,
    )  # fmt: skip
    average.to(device)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8,
        fused=True if tuned else None,
    )  # fmt: skip
    rates = get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=1_000_000
    )
    loader = DataLoader(
        ScriptImages(random_images(NUM_IMAGES[device.type])),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=8 if tuned and device.type == "cuda" else 0,
        persistent_workers=tuned and device.type == "cuda",
        pin_memory=tuned and device.type == "cuda",
    )
    batches = endless(loader)
    weight_dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
    called = torch.compile(model) if compile else model

    def take() -> None:
        images = next(batches).to(device, non_blocking=tuned).to(weight_dtype)
        noise = torch.randn(images.shape, dtype=weight_dtype, device=device)
        times = torch.randint(0, 1000, (len(images),), device=device).long()
        noisy = scheduler.add_noise(images, noise, times)
        if tuned:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
            output = called(noisy, times).sample
        loss = F.mse_loss(output.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        loss.detach().item()  # the script logs it at every step

    return with_tf32(take) if tuned else take


# lucidrains --------------------------------------------------------------------------------------


class LucidrainsNetwork(nn.Module):
    """One of our networks with the attributes that lucidrains' GaussianDiffusion asks for."""

    self_condition = False
    channels = out_dim = 3

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, self_condition: Tensor | None = None) -> Tensor:
        return self.network(x, time)


def write_pictures(folder: Path, num_images: int) -> None:
    """A folder of PNG files, which is what lucidrains' Trainer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(random_images(num_images).images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")


def lucidrains_trainer(
    network: str, batch_size: int, device: torch.device, folder: Path, *, amp: bool = False
) -> Step:
    """lucidrains' Trainer itself, asked for one more step at each call.

    Args:
        network: ours, given to its ``GaussianDiffusion``.
        batch_size: images of a step.
        device: must be the one that accelerate chooses.
        folder: of its pictures and results.
        amp: what its flag does with ``mixed_precision_type="bf16"``: forward under autocast.
            (Not by the flag, since accelerate allows one precision in a process.)
    """
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    write_pictures(folder / "pictures", NUM_IMAGES[device.type])
    diffusion = GaussianDiffusion(
        LucidrainsNetwork(new_model(network, device).network), image_size=32, timesteps=1000
    ).to(device)
    if amp:
        diffusion.forward = torch.autocast(device.type, torch.bfloat16)(diffusion.forward)
    trainer = Trainer(
        diffusion,
        str(folder / "pictures"),
        train_batch_size=batch_size,
        train_num_steps=0,
        save_and_sample_every=10**9,
        results_folder=str(folder / "results"),
        calculate_fid=False,
    )

    def take() -> None:
        trainer.train_num_steps = trainer.step + 1
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            trainer.train()

    return take


# The homework ------------------------------------------------------------------------------------


def homework_loop(
    network: str, batch_size: int, device: torch.device, *, tuned: bool = False
) -> Step:
    """What a course's notebook does: fp32, Adam, the loss read at each step, no average.

    Args:
        network: of ours.
        batch_size: images of a step.
        device: where.
        tuned: bf16 autocast, channels-last, a fused Adam and TF32.
    """
    model = new_model(network, device).network
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True if tuned else None)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)
    pixels = normalise(torch.from_numpy(random_images(NUM_IMAGES[device.type]).images))
    loader = DataLoader(TensorDataset(pixels), batch_size=batch_size, shuffle=True, drop_last=True)
    batches = endless(loader)

    def take() -> None:
        (images,) = next(batches)
        images = images.to(device)
        times = torch.randint(0, 1000, (len(images),), device=device)
        noise = torch.randn_like(images)
        kept = alpha_bar[times][:, None, None, None]
        noisy = kept.sqrt() * images + (1 - kept).sqrt() * noise
        if tuned:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=tuned):
            output = model(noisy, times)
        loss = F.mse_loss(output.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return with_tf32(take) if tuned else take


# What they share ---------------------------------------------------------------------------------


def endless(loader: DataLoader) -> Iterator[Any]:
    """The batches of epoch after epoch."""
    while True:
        yield from loader


def with_tf32(take: Step) -> Step:
    """The step with TF32 products, and the setting put back for whoever comes next."""

    def inside() -> None:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        try:
            take()
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    return inside


def several(take: Step, count: int) -> Step:
    """``count`` steps as one turn."""

    def turn() -> None:
        for _ in range(count):
            take()

    return turn


def missing(packages: Sequence[str]) -> list[str]:
    """Which of the packages cannot be imported here."""
    from importlib.util import find_spec

    return [package for package in packages if find_spec(package) is None]
