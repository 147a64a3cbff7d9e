"""Two noises of one caption should give two pictures: Yang et al., "Diversity-Sensitive Conditional GANs", ICLR 2019.

A discriminator sees one picture a caption, and has nothing against a generator that draws it for every noise.
"""

from torch import Tensor

from t2i.precision import at_least_fp32

LIMIT = 0.3  # of the difference that is rewarded, in pixel values of [-1, 1]: beyond it pictures only have to look real


def diversity(first: Tensor, second: Tensor) -> Tensor:
    """How much pictures [B, 3, R, R] of the same captions differ: [B], the mean absolute difference, at most LIMIT.

    Eq. 2 of the paper without its division by the distance of the noises, which in many dimensions is all but the same
    for every pair.
    """
    return (at_least_fp32(first) - at_least_fp32(second)).abs().mean((1, 2, 3)).clamp(max=LIMIT)
