"""What a caption leaves open, a picture tells: noise that is read off the caption's own picture.

By likeness alone a generator learns the mean of all pictures that a caption has, and to ignore the noise. Here a small
encoder, asked in training only, reads from the caption's picture what noise it might have been drawn with, and likeness
is asked of the drawing with that noise: then noise carries what the pictures of a caption differ in. The encoder pays
for each nat by which what it says departs from plain noise, so that plain noise, which is all there is when a prompt is
drawn, means the same.

It tells the first few numbers of the noise alone. In many dimensions pictures would each tell a direction of their own,
far from all that plain noise ever says, and a prompt's drawings would hardly differ. And it sees no colours, only what
is lighter and darker than the rest: tint is the cheapest way to be more like a picture, and captions say it ("a red
apple").

It is a variational autoencoder with the caption as condition (Kingma & Welling 2014; Sohn et al. 2015), beside an
adversarial loss as in BicycleGAN's first half (Zhu et al. 2017, sec. 3.2).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.precision import at_least_fp32
from t2i.text.attention import Linear

TOLD = 8  # numbers of the noise
SIDE = 16  # the finest at which drawings are compared beside a discriminator
FAINT = 0.05  # a deviation that is hardly seen is not blown up
LOG_VARIANCES = (-10.0, 2.0)


class NoiseEncoder(nn.Module):
    """Pictures [B, 3, R, R], conditions [B, E] of their captions and plain noise [B, Z] -> the noise with its first
    numbers (TOLD, or Z where that is less) as the pictures tell them [B, Z], and the nats by which the distribution of
    these departs from the standard normal one [B].

    A perceptron of two hidden layers looks at a picture's `relief`. At first it gives the noise back nearly as it was.
    """

    def __init__(self, condition: int, z_dim: int, hidden: int = 256, lr_multiplier: float = 1.0):
        super().__init__()
        self.enter = Linear(SIDE * SIDE + condition, hidden, lr_multiplier=lr_multiplier)
        self.hidden = Linear(hidden, hidden, lr_multiplier=lr_multiplier)
        self.told = min(TOLD, z_dim)
        self.out = Linear(hidden, 2 * self.told, lr_multiplier=lr_multiplier)
        with torch.no_grad():  # begins near plain noise
            self.out.weight *= 0.1
            self.out.bias.zero_()

    def forward(self, images: Tensor, condition: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, enabled=False):
            x = F.gelu(self.enter(torch.cat([relief(images), at_least_fp32(condition)], dim=1)))
            mean, log_variance = self.out(F.gelu(self.hidden(x))).chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCES)
        told, plain = z.split([self.told, z.shape[1] - self.told], dim=1)
        told = mean + (0.5 * log_variance).exp() * told
        return torch.cat([told, plain], dim=1), nats(mean, log_variance)


def relief(images: Tensor) -> Tensor:
    """Pictures [B, 3, R, R] as the mean of their channels, averaged down to 16 x 16, with mean 0 and deviation about 1:
    [B, 256]. The same for a picture in another tint, or paler."""
    grey = F.adaptive_avg_pool2d(at_least_fp32(images).mean(1, keepdim=True), SIDE).flatten(1)
    grey = grey - grey.mean(1, keepdim=True)
    return grey / (grey.square().mean(1, keepdim=True).sqrt() + FAINT)


def nats(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of normal distributions [B, Z] from the standard one: [B], in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
