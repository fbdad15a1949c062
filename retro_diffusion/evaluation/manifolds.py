"""What a single distance hides: fidelity against coverage, modes dropped, classes collapsed."""

from typing import NamedTuple

import torch
from torch import Tensor

from retro_diffusion.data.toy import MixtureParameters
from retro_diffusion.evaluation.distances import as_pair, as_points, distance_blocks


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] of samples near the data (`precision`) and of data near the samples (`recall`)."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, reference: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall.

    The manifold of a set is the union of balls around its points, each reaching to the point's
    ``k``-th nearest neighbour within the set. Precision is the share of samples on the reference's
    manifold, recall the share of the reference on the samples' manifold. Two draws of one law score
    well below 1, by an amount that depends on ``N`` and dimension: use equal sizes and the floor.

    Parameters
    ----------
    samples, reference : Tensor, (N, *D) and (M, *D)
        The two samples, or their features, more than ``k`` points each.
    k : int
        Which neighbour sets the radius, at least 1.

    Returns
    -------
    PrecisionRecall
        Both shares.

    Raises
    ------
    ValueError
        If shapes disagree, points are too few, values are not finite, or ``k`` is less than 1.

    References
    ----------
    Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models",
    NeurIPS 2019, equations (1) and (2).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    a, b = as_pair(samples, reference, least=k + 1)
    return PrecisionRecall(_covered(a, b, _radii(b, k)), _covered(b, a, _radii(a, k)))


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance to the k-th neighbour; the point itself is the 0-th."""
    blocks = distance_blocks(points, points)
    return torch.cat([block.kthvalue(k + 1, dim=1).values for _, block in blocks])


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    hits = sum(
        (block <= radii).any(dim=1).sum().item() for _, block in distance_blocks(points, centres)
    )
    return hits / len(points)


class ModeStats(NamedTuple):
    """How samples fill the modes of a known mixture.

    Attributes
    ----------
    weight_tv : float
        Total variation, in [0, 1], between the shares of samples per mode and the true weights.
    sd_ratio : float
        Root mean square deviation from the mode's mean in units of its standard deviation; 1 is right.
        Outliers are left out.
    outlier_share : float
        Share of samples, in [0, 1], that belong to no mode.
    """

    weight_tv: float
    sd_ratio: float
    outlier_share: float


def mode_stats(
    samples: Tensor, parameters: MixtureParameters, *, outlier_sds: float = 4.0
) -> ModeStats:
    """Compare samples with a mixture of Gaussians mode by mode.

    A sample belongs to the mode that is nearest in that mode's standard deviations, which is right for
    modes that hardly overlap. One further than ``outlier_sds`` from every mode is an outlier; in two
    dimensions 4 standard deviations exclude 0.03 % of exact draws.

    Parameters
    ----------
    samples : Tensor, (N, D)
        The samples, at least 2.
    parameters : MixtureParameters
        The mixture, ``K`` components in ``D`` dimensions.
    outlier_sds : float
        Radius of a mode, in its standard deviations.

    Returns
    -------
    ModeStats
        Shares over all samples; ``sd_ratio`` is nan if all are outliers.

    Raises
    ------
    ValueError
        If dimensions disagree, samples are too few, or values are not finite.
    """
    x = as_points(samples)
    weights, means, stds = (part.to(x) for part in parameters)
    if x.shape[1] != means.shape[1]:
        raise ValueError(
            f"samples have {x.shape[1]} dimensions, but the mixture has {means.shape[1]}"
        )
    scaled = [
        torch.cdist(x / std, (mean / std)[None])[:, 0]
        for mean, std in zip(means, stds, strict=True)
    ]
    nearest, mode = torch.stack(scaled, dim=1).min(dim=1)
    inside = nearest <= outlier_sds
    share = torch.bincount(mode, minlength=len(weights)) / len(x)
    return ModeStats(
        weight_tv=0.5 * (share - weights / weights.sum()).abs().sum().item(),
        sd_ratio=(nearest[inside].square().mean() / x.shape[1]).sqrt().item(),
        outlier_share=1 - inside.double().mean().item(),
    )


def in_class_diversity(x: Tensor, labels: Tensor) -> float:
    """Mean distance between two members of a class, averaged over classes with equal weight.

    Guidance and distillation can raise accuracy by collapsing each class; this shows it.

    Parameters
    ----------
    x : Tensor, (N, *D)
        Samples, or their features.
    labels : Tensor, (N,) int
        Class of each.

    Returns
    -------
    float
        Mean Euclidean distance over pairs of distinct members, in units of the data.

    Raises
    ------
    ValueError
        If a class has a single member, lengths differ, or values are not finite.
    """
    points = as_points(x)
    if labels.shape != (len(points),):
        raise ValueError(
            f"labels must have shape ({len(points)},) to go with the samples, "
            f"got {tuple(labels.shape)}"
        )
    means = []
    for label in labels.unique():
        members = points[labels == label]
        n = len(members)
        if n < 2:
            raise ValueError(f"class {label.item()} has a single member, so no pair to compare")
        total = sum(block.sum().item() for _, block in distance_blocks(members, members))
        means.append(total / (n * (n - 1)))
    return sum(means) / len(means)
