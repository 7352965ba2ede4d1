"""KID, Kernel Inception Distance: the squared maximum mean discrepancy of two sets of features."""

from __future__ import annotations

import torch


def kernel_of(products: torch.Tensor, size: int, within: slice | None = None) -> torch.Tensor:
    """(x.y / d + 1)^3 of inner products of features of `size` numbers (Binkowski et al. 2018).

    `within` are the rows of a block of a set with itself: an image's kernel with itself is 0 then.
    """
    shifted = products / size + 1.0
    kernel = shifted * shifted * shifted
    if within is not None:
        kernel.diagonal(within.start).zero_()
    return kernel


def kid_of(samples: torch.Tensor, reference: torch.Tensor, between: torch.Tensor) -> float:
    """KID: E k(x, x') + E k(y, y') - 2 E k(x, y), without bias, around 0 for equal distributions.

    The full U-statistic (Binkowski et al. 2018, eq. 4), no mean over random subsets. `samples` (n,)
    and `reference` (m,) are sums of the kernel of each image with all others of its set, `between`
    (n,) the means of that of each sample with the reference.
    """
    own = [sums.sum() / (len(sums) * (len(sums) - 1)) for sums in (samples, reference)]
    return float(own[0] + own[1] - 2 * between.mean())


def kid_variances(
    samples: torch.Tensor, squares: float, between: torch.Tensor
) -> tuple[float, float]:
    """What `corrected_deviation` needs to know of resamples of the samples, in closed form.

    `samples` and `between` (n,) as in `kid_of`, float64; `squares` is the sum of the squared kernel
    over the pairs of samples. The KID of resamples with the samples has the variance V = 2/n^2
    times the mean square of the centred kernel, that with the reference V + 4/n times the variance
    of a sample's mean kernel with the samples less that with the reference.
    """
    n = len(samples)
    means = samples / (n - 1)
    centre = means - means.mean() / 2  # the centred kernel is k_ij - centre_i - centre_j
    centred = squares - 4 * (samples * centre).sum()
    centred += 2 * (n - 2) * centre.square().sum() + 2 * centre.sum().square()
    noise = 2 * float(centred) / (n * (n - 1)) ** 2
    return 4 / n * float((means - between).var()) + noise, noise
