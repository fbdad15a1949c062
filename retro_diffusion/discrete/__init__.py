"""Diffusion of discrete data: bit strings whose bits are forgotten one by one (2015)."""

from retro_diffusion.discrete.binomial import (
    BinomialChain,
    FiniteStrings,
    StringBound,
    all_strings,
    bernoulli_entropy,
    bernoulli_kl,
    draw_bits,
    erasing_betas,
    reverse_chain,
    transition_kl,
)

__all__ = [
    "BinomialChain",
    "FiniteStrings",
    "StringBound",
    "all_strings",
    "bernoulli_entropy",
    "bernoulli_kl",
    "draw_bits",
    "erasing_betas",
    "reverse_chain",
    "transition_kl",
]
