"""Contrast and structure in common: scikit-image's numbers, torchmetrics' and what they must be."""

import pytest
import torch
from torch.testing import assert_close
from torchmetrics.functional.image import structural_similarity_index_measure

from fra.models.structure import contrast_structure


def waves(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    first = (0.5 * x).sin() + 0.3 * (0.9 * y + 0.2 * x).cos()
    second = 0.8 * (0.5 * x + 0.3).sin() + 0.3 * (0.9 * y).cos()
    return first[None, None], second[None, None]


@pytest.mark.parametrize(("span", "expected"), [(1.0, 0.65427089), (2.0, 0.65697215)])
def test_it_is_scikit_images_without_the_luminance(span: float, expected: float) -> None:
    # scikit-image 0.26, structural_similarity(first, second, data_range=span, gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, full=True, K1=1e8), without a border of 5: so large a K1 makes the luminance's factor
    # 1. Its window has 11 pixels.
    found = contrast_structure(*waves(24), window=11, span=span)
    assert_close(found, torch.tensor([expected]), rtol=0, atol=2e-6)


def test_a_window_of_31_adds_next_to_nothing_to_one_of_15() -> None:
    first, second = waves(48)
    middle = slice(8, -8)  # where both windows have the same places
    narrow = contrast_structure(first[..., middle, middle], second[..., middle, middle], window=15)
    assert_close(contrast_structure(first, second, window=31), narrow, rtol=0, atol=1e-5)


def test_it_is_torchmetrics_contrast_sensitivity() -> None:
    first, second = torch.rand(2, 3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    # Its window has int(3.5 * sigma + .5) pixels on either side of the middle.
    found = [
        structural_similarity_index_measure(
            one[None], other[None], sigma=1.5, data_range=2.0, return_contrast_sensitivity=True
        )[1]
        for one, other in zip(first, second, strict=True)
    ]
    assert_close(contrast_structure(first, second, window=11), torch.stack(found).flatten(), rtol=1e-4, atol=1e-5)


def test_the_same_image_has_1_a_brighter_one_too_and_its_negative_less_than_nothing() -> None:
    image = waves(24)[0]
    assert_close(contrast_structure(image, image + 0.5), torch.ones(1), rtol=0, atol=1e-3)
    assert contrast_structure(image, -image).item() < -0.9
    flat = torch.zeros(1, 1, 24, 24)
    assert_close(contrast_structure(flat, flat), torch.ones(1))


def test_a_window_wider_than_the_image_is_as_wide_as_it() -> None:
    first, second = waves(16)
    assert_close(contrast_structure(first, second, window=31), contrast_structure(first, second, window=16))
