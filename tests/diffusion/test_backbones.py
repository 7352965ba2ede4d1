"""Laws that every backbone keeps, at tiny widths."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from ddpm_kedro.diffusion import backbones
from ddpm_kedro.diffusion.backbones import CompactUNet, DDPMPlusPlus, DDPMUNet, HomeworkUNet
from ddpm_kedro.diffusion.backbones.ddpm import strided_conv
from ddpm_kedro.diffusion.backbones.layers import (
    Dropout,
    GroupNorm,
    LabelEmbedding,
    ResidualBlock,
    SelfAttention,
    TimeFeatures,
    attend,
    crop,
    pad_to_multiple,
    spelled_group_norm,
)
from ddpm_kedro.errors import InputError

TINY = {
    "homework": lambda **options: HomeworkUNet(hidden_size=8, **options),
    "compact": lambda **options: CompactUNet(
        base_channels=8, channel_mults=(1, 2, 2), attention_levels=(1,), **options
    ),
    "ddpm": lambda **options: DDPMUNet(
        base_channels=8, channel_mults=(1, 2, 2), blocks_per_level=1, **options
    ),
    "edm": lambda **options: DDPMPlusPlus(
        base_channels=8, channel_mults=(1, 2, 2), blocks_per_level=1, **options
    ),
}


def trained(name: str, device: torch.device | str = "cpu", **options: object) -> nn.Module:
    """A backbone whose every weight is random: layers that start at zero hide what lies behind."""
    torch.manual_seed(0)
    network = TINY[name](**{"in_channels": 3, **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    return network.eval().to(device)


def batch(
    rows: int = 4, channels: int = 3, height: int = 16, width: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, channels, height, width, generator=generator)
    return x, torch.linspace(3.0, 900.0, rows)


def test_every_backbone_is_tested() -> None:
    assert {type(make(in_channels=1)).__name__ for make in TINY.values()} == set(backbones.__all__)


@pytest.mark.parametrize("name", TINY)
class TestEachBackbone:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 47), (1, 1), (1, 40)])
    def test_keeps_any_size_and_number_of_channels(
        self, name: str, channels: int, size: tuple[int, int]
    ) -> None:
        network = trained(name, in_channels=channels)
        x, t = batch(2, channels, *size)
        output = network(x, t)
        assert output.shape == x.shape
        assert output.isfinite().all()

    def test_a_batch_is_its_rows_one_by_one(self, name: str, device: torch.device) -> None:
        network = trained(name, device)
        x, t = (tensor.to(device) for tensor in batch())
        together = network(x, t)
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(len(x))])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_a_permuted_batch_gives_permuted_output(self, name: str) -> None:
        network = trained(name, num_classes=4)
        x, t = batch()
        order, labels = torch.tensor([2, 0, 3, 1]), torch.arange(4)
        expected = network(x, t, labels)[order]
        torch.testing.assert_close(
            network(x[order], t[order], labels[order]), expected, rtol=1e-4, atol=1e-5
        )

    def test_gradients_reach_every_parameter(self, name: str, device: torch.device) -> None:
        network = trained(name, device, num_classes=3)
        x, t = (tensor.to(device) for tensor in batch(4, 3, 32, 32))
        labels = torch.arange(4, device=device)
        network(x, t, labels).square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name

    @pytest.mark.parametrize("times", [(0.0, 1.0), (500.0, 501.0), (998.0, 999.0), (-1.2, -1.1)])
    def test_neighbouring_times_are_told_apart(self, name: str, times: tuple[float, float]) -> None:
        network = trained(name)
        x = batch(1)[0].expand(2, -1, -1, -1)
        first, second = network(x, torch.tensor(times))
        assert (first - second).abs().max() > 2e-4 * first.abs().max()

    def test_each_image_is_told_its_own_time(self, name: str) -> None:
        # A time embedding without its two spatial axes would spread over rows instead of channels:
        # with as many rows as channels that even runs.
        network = trained(name)
        x, t = batch()
        changed = t.clone()
        changed[2] += 100
        same = (network(x, t) - network(x, changed)).abs().amax((1, 2, 3)) < 1e-6
        assert same.tolist() == [True, True, False, True]

    def test_labels_matter_and_none_is_the_class_after_the_last(self, name: str) -> None:
        network = trained(name, num_classes=3)
        x = batch(1)[0].expand(4, -1, -1, -1)
        t = torch.full((4,), 7.0)
        output = network(x, t, torch.arange(4))
        for i in range(4):
            for j in range(i):
                assert not torch.allclose(output[i], output[j])
        torch.testing.assert_close(network(x, t)[0], output[3], rtol=1e-4, atol=1e-5)

    def test_labels_without_classes_are_refused(self, name: str) -> None:
        x, t = batch()
        with pytest.raises(InputError, match="labels"):
            trained(name)(x, t, torch.zeros(4, dtype=torch.int64))

    def test_runs_on_the_meta_device_and_refuses_to_mix(self, name: str) -> None:
        with torch.device("meta"):
            network = TINY[name](in_channels=3, num_classes=3)
        x, t = batch(2, 3, 28, 28)
        labels = torch.zeros(2, dtype=torch.int64)
        output = network(x.to("meta"), t.to("meta"), labels.to("meta"))
        assert output.device.type == "meta"
        assert output.shape == x.shape
        with pytest.raises((RuntimeError, NotImplementedError)):
            network(x, t, labels)

    def test_bf16_autocast_is_close_to_fp32(self, name: str, device: torch.device) -> None:
        network = trained(name, device)
        x, t = (tensor.to(device) for tensor in batch())
        exact = network(x, t)
        with torch.autocast(device.type, torch.bfloat16):
            rough = network(x, t).float()
        assert (rough - exact).norm() < 0.05 * exact.norm()

    def test_channels_last_changes_nothing_and_stays(self, name: str, device: torch.device) -> None:
        network = trained(name, device)
        x, t = (tensor.to(device) for tensor in batch())
        expected = network(x, t)
        output = network.to(memory_format=torch.channels_last)(
            x.to(memory_format=torch.channels_last), t
        )
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        assert output.is_contiguous(memory_format=torch.channels_last)

    def test_is_one_graph_without_breaks(self, name: str) -> None:
        network = trained(name, num_classes=3)
        x, t = batch(2, 3, 9, 9)
        labels = torch.tensor([0, 3])
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x, t, labels), network(x, t, labels))

    def test_state_is_parameters_alone(self, name: str) -> None:
        # A buffer would be missing in a model that is built on the meta device and filled.
        assert list(TINY[name](in_channels=3).buffers()) == []

    def test_refuses_sizes_that_are_none(self, name: str) -> None:
        with pytest.raises(InputError, match="in_channels"):
            TINY[name](in_channels=0)

    def test_says_how_many_classes_it_has(self, name: str) -> None:
        assert TINY[name](in_channels=1).num_classes is None
        assert TINY[name](in_channels=1, num_classes=5).num_classes == 5


@pytest.mark.parametrize("network", [getattr(backbones, name) for name in backbones.__all__])
def test_constructors_take_channels_and_classes(network: type[nn.Module]) -> None:
    assert {"in_channels", "num_classes"} <= set(inspect.signature(network).parameters)


def test_compact_starts_as_zero() -> None:
    x, t = batch()
    assert CompactUNet(in_channels=3, base_channels=8)(x, t).abs().max() == 0


def test_compact_refuses_levels_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="attention_levels"):
        CompactUNet(base_channels=8, channel_mults=(1, 2), attention_levels=(2,))
    with pytest.raises(InputError, match="channel_mults"):
        CompactUNet(channel_mults=())
    with pytest.raises(InputError, match="dropout"):
        CompactUNet(dropout=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_with_its_probability_and_keeps_the_mean(device, layout, p, dtype) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 32, 30, 31, device=device).add_(1).to(dtype, memory_format=layout)
    x.requires_grad_()
    y = Dropout(p)(x)
    kept = y != 0
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y[kept], (x / (1 - p))[kept], rtol=1e-2, atol=0)
    # 119,040 draws: four standard deviations of their mean, for all and for each column
    assert abs(1 - p - kept.double().mean()) < 4 * (p * (1 - p) / x.numel()) ** 0.5
    columns = kept.double().mean((0, 1, 2))
    assert (columns - (1 - p)).abs().max() < 5 * (p * (1 - p) * 31 / x.numel()) ** 0.5
    y.float().sum().backward()
    torch.testing.assert_close(x.grad, (kept / (1 - p)).to(dtype), rtol=1e-2, atol=0)


def test_dropout_follows_torchs_seed_and_its_edges() -> None:
    x = torch.ones(3, 5)  # not a multiple of four numbers
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(1 - 1e-9)(x).isfinite().all()


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    network = trained("compact", dropout=0.5)
    x, t = batch()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


def test_padding_is_undone_by_cropping() -> None:
    x = batch(1, 3, 5, 9)[0]
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (1, 3, 8, 16)
    assert torch.equal(crop(padded, 5, 9), x)
    assert padded.count_nonzero() == x.count_nonzero()
    assert pad_to_multiple(padded, 8) is padded


def test_group_norm_is_torchs_own(device: torch.device) -> None:
    torch.manual_seed(0)
    ours = GroupNorm(12, 4).to(device)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    x = 3 + 2 * torch.randn(2, 12, 5, 7, device=device)
    expected = nn.functional.group_norm(x, 4, ours.weight, ours.bias)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    images = x.to(memory_format=torch.channels_last)
    assert ours(images).is_contiguous(memory_format=torch.channels_last)
    half = x.bfloat16()
    assert ours(half).dtype == torch.bfloat16
    exact = nn.functional.group_norm(half.float(), 4, ours.weight, ours.bias)
    assert torch.equal(ours(half), exact.bfloat16()) or device.type == "cuda"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_group_norm_for_cuda_is_torchs_own_with_its_gradients(
    device: torch.device, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    images = 3 + 2 * torch.randn(2, 12, 5, 7, device=device)
    results = []
    for norm in (spelled_group_norm, nn.functional.group_norm):
        x = images.clone(memory_format=memory_format).requires_grad_()
        weight = torch.linspace(-1, 2, 12, device=device).requires_grad_()
        bias = torch.linspace(-3, 1, 12, device=device).requires_grad_()
        y = norm(x, 4, weight, bias, 1e-5)
        (y * images.flip(0)).sum().backward()
        results.append([y, x.grad, weight.grad, bias.grad])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)
    assert results[0][0].is_contiguous(memory_format=memory_format)
    half = images.bfloat16().to(memory_format=memory_format)
    rounded = spelled_group_norm(half, 4, weight, bias, 1e-5)
    assert rounded.dtype == torch.bfloat16
    assert rounded.is_contiguous(memory_format=memory_format)


def test_time_features_are_sines_and_cosines() -> None:
    features = TimeFeatures(6)(torch.tensor([0.0, 2.0]))
    phases = 2 * torch.tensor([1.0, 1e-2, 1e-4])
    expected = torch.stack(
        [torch.tensor([0.0] * 3 + [1.0] * 3), torch.cat([phases.sin(), phases.cos()])]
    )
    torch.testing.assert_close(features, expected)
    with pytest.raises(InputError, match="even"):
        TimeFeatures(5)


def test_label_embedding_has_one_row_more() -> None:
    table = LabelEmbedding(3, 4)
    assert torch.equal(table(None, 2), table(torch.tensor([3, 3]), 2))


@pytest.mark.parametrize("tokens", [9, 1025])
def test_attention_in_half_precision_is_close(device: torch.device, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 2, 2, tokens, 4, generator=generator).to(device)
    exact = attend(*inputs.clone().requires_grad_().unbind())
    half = inputs.bfloat16().requires_grad_()
    rough = attend(*half.unbind())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.02)
    rough.float().square().sum().backward()
    assert half.grad.isfinite().all()


def test_attention_is_softmax_of_products() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, num_heads=2, num_groups=4)
    x = torch.randn(2, 8, 3, 5)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)  # (B, 15, 8)
    query, key, value = layer.qkv(tokens).chunk(3, dim=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (query[..., head] @ key[..., head].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ value[..., head])
    update = layer.proj(torch.cat(heads, dim=2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), x + update)


def test_time_features_of_neighbouring_steps_are_far_apart() -> None:
    features = TimeFeatures(64)(torch.arange(1000.0))
    assert (features[1:] - features[:-1]).norm(dim=1).min() > 0.9  # 2 sin(1/2) from frequency 1


def test_group_norm_leaves_two_channels_a_group() -> None:
    groups = {channels: GroupNorm(channels).num_groups for channels in (1, 3, 8, 32, 48, 64, 128)}
    assert groups == {1: 1, 3: 1, 8: 4, 32: 16, 48: 16, 64: 32, 128: 32}


def test_ddpm_starts_at_zero_and_edm_next_to_it() -> None:
    torch.manual_seed(0)
    x, t = batch()
    assert DDPMUNet(base_channels=8)(x, t).abs().max() == 0
    assert 0 < DDPMPlusPlus(base_channels=8)(x, t).abs().max() < 1e-3


@pytest.mark.parametrize("channels", [32, 0, -4, "x"])
def test_ddpm_refuses_heads_that_do_not_divide_its_channels(channels: object) -> None:
    with pytest.raises(
        InputError, match=f"channels_per_head={channels}: (give a divisor of 8|input should)"
    ):
        DDPMUNet(base_channels=8, channels_per_head=channels)


def test_ddpm_downsampling_pads_right_and_below() -> None:
    layer = strided_conv(1)
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1
    assert layer(image)[0, 0].tolist() == [[1, 0], [0, 0]]
    image = image.flip(2, 3)
    assert layer(image)[0, 0].tolist() == [[0, 0], [0, 1]]


def test_residual_sums_of_edm_keep_the_variance() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(64, 64, 0.0, skip_scale=0.5**0.5)
    x = torch.randn(2, 64, 16, 16)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    torch.testing.assert_close(block(x, torch.zeros(2, 64)), x * 0.5**0.5)
