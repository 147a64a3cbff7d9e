"""Pipelines at 32 px that nobody trained, whose weights are all somewhere."""

import torch
from shape_captions import CAPTIONS
from short_runs import config

from t2i.models.folder import ModelDescription, build_generator
from t2i.pipeline import TextToImagePipeline
from t2i.text.tokenizer import CaptionTokenizer
from t2i.text.transformer import TrainedEncoder, TransformerEncoder


def trained_encoder():
    """A text encoder that was trained with its GAN, so to speak."""
    tokenizer = CaptionTokenizer.train(CAPTIONS, vocabulary=300, max_tokens=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TransformerEncoder(
            tokenizer.vocabulary_size, width=16, layers=1, heads=2, feed_forward=16, max_tokens=12
        )
    return TrainedEncoder(network, tokenizer)


def pipeline(arch, encoder, conditioning="attention", **more):
    settings = config(arch)
    text = {"conditioning": conditioning, "layers": int(conditioning == "attention"), "lr_multiplier": 1.0}
    description = ModelDescription(arch, 32, encoder.describe(), text, settings.generator, **more)
    generator = build_generator(description)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in generator.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return TextToImagePipeline(generator.requires_grad_(False), description, text_encoder=encoder)
