"""A posterior over the noise: training reads from a caption's image which noise it might have been drawn with.

By reconstruction alone a generator learns the mean of all images that a caption has, and to ignore the noise. Here a
small encoder, used in training only, reads the noise off the caption's image, and the reconstruction loss is asked of
the drawing with that noise: then noise carries what the images of a caption differ in. The KL divergence from the
standard normal distribution keeps what it says close to what is drawn with later.

It is a variational autoencoder with the caption as condition (Kingma & Welling 2014; Sohn et al. 2015), beside an
adversarial loss as in BicycleGAN's first half (Zhu et al. 2017, sec. 3.2). It sets the first few numbers of the noise
alone (in many dimensions each image would have a direction of its own), and sees a greyscale thumbnail (tint is the
cheapest way to be more like an image, and captions say it).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.layers import Linear
from t2i.precision import at_least_fp32

LATENTS = 8  # numbers of the noise that it sets
SIDE = 16  # the finest at which images are compared beside a discriminator
EPS = 0.05  # a deviation that is hardly seen is not blown up
LOG_VARIANCES = (-10.0, 2.0)


class PosteriorEncoder(nn.Module):
    """Images [B, 3, R, R], conditions [B, E] of their captions and normal noise [B, Z] -> the noise with its first
    numbers drawn from the posterior [B, Z], and the posterior's KL divergence from the standard normal [B], nats.

    A perceptron of two hidden layers. At first it gives the noise back nearly as it was.
    """

    def __init__(self, condition: int, z_dim: int, hidden: int = 256, lr_multiplier: float = 1.0):
        super().__init__()
        self.enter = Linear(SIDE * SIDE + condition, hidden, lr_multiplier=lr_multiplier)
        self.hidden = Linear(hidden, hidden, lr_multiplier=lr_multiplier)
        self.latents = min(LATENTS, z_dim)
        self.out = Linear(hidden, 2 * self.latents, lr_multiplier=lr_multiplier)
        with torch.no_grad():  # begins near the prior
            self.out.weight *= 0.1
            self.out.bias.zero_()

    def forward(self, images: Tensor, condition: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, enabled=False):
            x = F.gelu(self.enter(torch.cat([grey_thumbnail(images), at_least_fp32(condition)], dim=1)))
            mean, log_variance = self.out(F.gelu(self.hidden(x))).chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCES)
        first, rest = z.split([self.latents, z.shape[1] - self.latents], dim=1)
        first = mean + (0.5 * log_variance).exp() * first
        return torch.cat([first, rest], dim=1), kl_divergence(mean, log_variance)


def grey_thumbnail(images: Tensor) -> Tensor:
    """Images [B, 3, R, R] as the mean of their channels, averaged down to 16 x 16, with mean 0 and deviation about 1:
    [B, 256]. The same for an image in another tint, or paler."""
    grey = F.adaptive_avg_pool2d(at_least_fp32(images).mean(1, keepdim=True), SIDE).flatten(1)
    grey = grey - grey.mean(1, keepdim=True)
    return grey / (grey.square().mean(1, keepdim=True).sqrt() + EPS)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of normal distributions [B, Z] from the standard one: [B], in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
