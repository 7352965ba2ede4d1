"""The loop that all samplers share: streams, batches, devices, callbacks, modes, refusals."""

from __future__ import annotations

import pytest
import torch
from gaussians import GaussianDenoiser, PixelNetwork

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.model_spec import OWN_MODULES, vet
from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    ZeroTerminalSNR,
)
from ddpm_kedro.diffusion.objective import EDMPreconditioning, FlowVelocity, VPrediction
from ddpm_kedro.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver2M,
    DPMSolver2S,
    FlowHeun,
    Heun,
    Sampler,
)
from ddpm_kedro.errors import InputError

VP = {
    "small": lambda n=6: Ancestral(n, variance="small"),
    "large": lambda n=6: Ancestral(n, variance="large"),
    "dynamic": lambda n=6: Ancestral(n, thresholding="dynamic"),
    "ddim": lambda n=6: DDIM(n),
    "ddim-0.5": lambda n=6: DDIM(n, eta=0.5),
    "heun": lambda n=6: Heun(n),
    "2m": lambda n=6: DPMSolver2M(n),
    "2s": lambda n=6: DPMSolver2S(n),
}
FLOW = {"flow-ddim": lambda n=6: DDIM(n), "flow-heun": lambda n=6: FlowHeun(n)}
ALL = VP | FLOW
SHAPE = (2, 5, 7)


def denoiser_for(name, device="cpu", num_classes=None):
    network = PixelNetwork(channels=2, num_classes=num_classes).to(device)
    if name in FLOW:
        return Denoiser(network, FlowSchedule(), FlowVelocity())
    return Denoiser(network, CosineSchedule(), VPrediction())


@pytest.mark.parametrize("name", ALL)
def test_a_sample_does_not_depend_on_its_batch(name):
    """Bytes of each sample: alone, in another batch, in another order, among other numbers."""
    denoiser, sampler = denoiser_for(name), ALL[name]()
    together = sampler.sample(denoiser, SHAPE, torch.arange(8), seed=3)
    alone = torch.cat([sampler.sample(denoiser, SHAPE, [i], seed=3) for i in range(8)])
    assert torch.equal(together, alone)
    parts = [sampler.sample(denoiser, SHAPE, rows, seed=3) for rows in ([5, 2, 7], [100, 4])]
    assert torch.equal(parts[0], together[[5, 2, 7]])
    assert torch.equal(parts[1][1], together[4])
    assert not torch.equal(parts[1][0], together[4])


@pytest.mark.parametrize("name", ALL)
def test_seed_decides_everything(name):
    denoiser, sampler = denoiser_for(name), ALL[name]()
    first, again, other = (sampler.sample(denoiser, SHAPE, [0, 1], seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", ALL)
def test_everything_is_made_on_the_model_s_device(name, device):
    """On meta any tensor of another device, and any look from the host, raises."""
    for place in (device, torch.device("meta")):
        denoiser = denoiser_for(name, place, num_classes=3)
        labels = torch.tensor([0, 3])  # as a user gives them, on the CPU
        x = ALL[name]().sample(denoiser, SHAPE, [0, 1], 0, labels=labels)
        assert x.device.type == place.type
        assert x.dtype == torch.float32
        assert x.shape == (2, *SHAPE)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("name", ALL)
def test_the_loop_never_waits_for_the_gpu(name):
    denoiser, sampler = denoiser_for(name, "cuda"), ALL[name]()
    rows = torch.arange(4, device="cuda")
    first = sampler.sample(denoiser, SHAPE, rows, 0)  # tables go to the device once
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = sampler.sample(denoiser, SHAPE, rows, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("name", ["large", "ddim", "2m", "flow-heun"])
def test_gpu_and_cpu_agree(name):
    on_gpu = ALL[name]().sample(denoiser_for(name, "cuda"), SHAPE, [0, 1], 0)
    on_cpu = ALL[name]().sample(denoiser_for(name), SHAPE, [0, 1], 0)
    assert torch.allclose(on_gpu.cpu(), on_cpu, atol=2e-3)


def test_noise_is_normal_and_from_the_samples_streams(monkeypatch):
    """x_T and every z are the numbers of (seed, stream, step, row), for one-step algebra."""
    schedule = LinearSchedule()
    path = Ancestral(3, thresholding=None, variance="large").sample(
        GaussianDenoiser(schedule), SHAPE, [4, 9], 11, trajectory=True, dtype=torch.float64
    )
    rows = torch.tensor([4, 9])
    assert torch.equal(path[0], normal(11, Stream.INITIAL, 0, rows, SHAPE).double())
    levels = Ancestral(3).levels(schedule)
    for k in (0, 1):
        now, then = levels[k], levels[k + 1]
        x0 = GaussianDenoiser(schedule)(path[k], torch.tensor(now.t, dtype=torch.float64))
        beta = 1 - (now.alpha / then.alpha) ** 2
        mean = now.alpha / then.alpha * (1 - then.alpha**2) * path[k] + then.alpha * beta * x0
        z = (path[k + 1] - mean / (1 - now.alpha**2)) / beta**0.5
        assert torch.allclose(z, normal(11, Stream.SAMPLER, k, rows, SHAPE).double(), atol=1e-9)


class TwoDraws(Ancestral):
    """Draws twice in a step, as samplers of stochastic differential equations do."""

    def step(self, run, x, now, then):
        x0 = run.denoise(x, now)
        draws = run.history.setdefault("draws", [])
        draws.append((run.noise(), run.noise()))
        run.denoiser.draws = draws
        return then.alpha * x0 + then.sigma * (0.6 * draws[-1][0] + 0.8 * draws[-1][1])


def test_draws_of_one_step_are_independent():
    """The first is what a sampler that draws once gets."""
    denoiser, rows = GaussianDenoiser(CosineSchedule()), torch.arange(4)
    TwoDraws(3).sample(denoiser, (3, 32, 32), rows, 5)
    for step, (first, _) in enumerate(denoiser.draws):
        assert torch.equal(first, normal(5, Stream.SAMPLER, step, rows, (3, 32, 32)))
    numbers = torch.stack([draw.flatten() for step in denoiser.draws for draw in step])
    assert torch.allclose(numbers.corrcoef(), torch.eye(6), atol=0.05)  # 12,288 numbers: 5.5 sigma


def test_a_sampler_that_draws_twice_does_not_depend_on_its_batch():
    denoiser, sampler = denoiser_for("small"), TwoDraws(5)
    together = sampler.sample(denoiser, SHAPE, torch.arange(4), seed=3)
    alone = torch.cat([sampler.sample(denoiser, SHAPE, [i], seed=3) for i in range(4)])
    assert torch.equal(together, alone)


def test_edm_starts_at_its_largest_noise():
    denoiser = Denoiser(PixelNetwork(2), EDMSchedule(), EDMPreconditioning())
    path = Heun(5, spacing="karras").sample(denoiser, SHAPE, [0], 0, trajectory=True)
    assert torch.equal(path[0], 80 * normal(0, Stream.INITIAL, 0, torch.tensor([0]), SHAPE))
    assert path[-1].abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ALL)
def test_trajectory_and_progress(name):
    denoiser, calls = denoiser_for(name), []
    path = ALL[name](4).sample(
        denoiser, SHAPE, [0, 1], 0, trajectory=True, on_step=lambda k, x: calls.append((k, x))
    )
    assert path.shape == (5, 2, *SHAPE)
    assert [k for k, _ in calls] == [1, 2, 3, 4]
    assert all(torch.equal(x, path[k]) for k, x in calls)
    assert torch.equal(path[-1], ALL[name](4).sample(denoiser, SHAPE, [0, 1], 0))


@pytest.mark.parametrize("name", ALL)
def test_one_step_gives_the_first_estimate(name):
    denoiser = denoiser_for(name).eval()
    path = ALL[name](1).sample(denoiser, SHAPE, [0], 0, trajectory=True)
    t = torch.tensor(denoiser.schedule.t_max, dtype=torch.float64)
    with torch.no_grad():
        estimate = denoiser(path[0], t)
    if name != "dynamic":
        assert torch.allclose(path[1], estimate.clamp(-1, 1), atol=1e-6)


def test_sampling_has_no_dropout_and_gives_modes_back():
    denoiser, sampler = denoiser_for("ddim"), DDIM(4)
    denoiser.eval()
    expected = sampler.sample(denoiser, SHAPE, [0], 0)
    denoiser.train()
    denoiser.network.convolution.eval()  # a frozen part keeps its own mode
    before = [module.training for module in denoiser.modules()]
    assert torch.equal(sampler.sample(denoiser, SHAPE, [0], 0), expected)
    assert [module.training for module in denoiser.modules()] == before
    assert before.count(True) == len(before) - 1

    def fail(k, x):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sampler.sample(denoiser, SHAPE, [0], 0, on_step=fail)
    assert [module.training for module in denoiser.modules()] == before


def test_sampling_builds_no_graph():
    assert not DDIM(2).sample(denoiser_for("ddim"), SHAPE, [0], 0).requires_grad


@pytest.mark.parametrize("name", ["large", "ddim", "2m"])
def test_autocast_reaches_only_the_network(name):
    denoiser = denoiser_for(name)
    plain = ALL[name]().sample(denoiser, SHAPE, [0, 1], 0)
    with torch.autocast("cpu", torch.bfloat16):
        half = ALL[name]().sample(denoiser, SHAPE, [0, 1], 0)
    assert half.dtype == torch.float32
    assert torch.allclose(half, plain, atol=0.1)
    assert not torch.equal(half, plain)


def test_a_sampler_keeps_nothing_between_calls():
    sampler, denoiser = DPMSolver2M(5), denoiser_for("2m")
    first = sampler.sample(denoiser, SHAPE, [0], 0)
    sampler.sample(denoiser, SHAPE, [1], 7)
    assert torch.equal(sampler.sample(denoiser, SHAPE, [0], 0), first)


@pytest.mark.parametrize(
    ("make", "calls"),
    [(Ancestral, 6), (DDIM, 6), (DPMSolver2M, 6), (Heun, 11), (DPMSolver2S, 11)],
)
def test_number_of_network_calls(make, calls):
    denoiser, seen = GaussianDenoiser(CosineSchedule()), []

    class Counting:
        schedule = denoiser.schedule

        def __call__(self, x, t, labels=None):
            seen.append(float(t))
            return denoiser(x, t)

    make(6).sample(Counting(), (1, 2, 2), [0], 0)
    assert len(seen) == calls
    assert min(seen) > -1  # the clean image is never asked about


@pytest.mark.parametrize("num_steps", [0, -3, 2.5, "ten", True, None])
def test_number_of_steps_is_a_whole_number(num_steps):
    with pytest.raises(InputError, match=f"DDIM.num_steps={num_steps}: "):
        DDIM(num_steps)


@pytest.mark.parametrize(
    ("sampler", "schedule", "words"),
    [
        (DDIM(1001), LinearSchedule(), "more than the 1000 timesteps.*at most 1000"),
        (Ancestral(51), CosineSchedule(50), "more than the 50 timesteps"),
        (FlowHeun(10), LinearSchedule(), "FlowSchedule and not LinearSchedule.*choose DDIM"),
        (FlowHeun(10), EDMSchedule(), "FlowSchedule and not EDMSchedule"),
        (Ancestral(10), EDMSchedule(), "variance=large.*choose variance=small"),
        (Ancestral(10), FlowSchedule(), "variance=large"),
        (Heun(10, spacing="karras"), ZeroTerminalSNR(LinearSchedule()), "karras.*trailing"),
        (DDIM(10, spacing="leading"), FlowSchedule(), "leading.*trailing or karras"),
    ],
)
def test_impossible_pairs_are_refused_before_any_work(sampler, schedule, words):
    with pytest.raises(InputError, match=words):
        sampler.check(schedule)

    class Untouched:
        def __call__(self, x, t, labels=None):
            raise AssertionError("the denoiser was called")

    Untouched.schedule = schedule
    with pytest.raises(InputError, match=words):
        sampler.sample(Untouched(), (1, 2, 2), [0], 0)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_is_a_share(eta):
    with pytest.raises(InputError, match="eta"):
        DDIM(10, eta=eta)


def test_unknown_names_and_labels_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"Ancestral.variance=fixed_large: .*'small' or 'large'"):
        Ancestral(10, variance="fixed_large")
    with pytest.raises(InputError, match=r"DDIM.spacing=odd: .*'leading'.* or 'karras'"):
        DDIM(10, spacing="odd")
    with pytest.raises(InputError, match=r"DDIM.thresholding=odd: choose static, dynamic or null"):
        DDIM(10, thresholding="odd")
    with pytest.raises(InputError, match="one for each of 3 samples"):
        DDIM(2).sample(denoiser_for("ddim", num_classes=3), SHAPE, range(3), 0, labels=[1, 2])


@pytest.mark.parametrize("name", ["Euler", "FlowEuler"])
def test_model_files_that_say_euler_still_load(name):
    option = {"type": f"ddpm_kedro.diffusion.samplers.{name}", "num_steps": 4}
    vet(option, Sampler, "sampler", OWN_MODULES)
    denoiser = denoiser_for("flow-ddim")
    found = build(option, trusted=OWN_MODULES).sample(denoiser, SHAPE, [0, 1], 0)
    assert torch.equal(found, DDIM(4).sample(denoiser, SHAPE, [0, 1], 0))
