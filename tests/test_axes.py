"""Axes of two quadratic forms."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skrec._alternating.axes import Axes


@pytest.fixture
def forms():
    rng = np.random.default_rng(0)
    roots = torch.as_tensor(rng.normal(size=(2, 5, 7)))
    prior_precision, moments = roots @ roots.mT
    return prior_precision, moments


def test_prior_precision_is_the_identity_and_moments_are_diagonal(forms):
    prior_precision, moments = forms
    axes, diagonal = Axes.of(prior_precision, moments)
    assert_allclose(axes.form_matrix(prior_precision), np.eye(5), atol=1e-12)
    assert_allclose(axes.form_matrix(moments), np.diag(diagonal), atol=1e-12)
    assert_allclose(axes.basis @ axes.inverse, np.eye(5), atol=1e-12)


def test_products_are_the_same_along_the_axes(forms):
    axes, _ = Axes.of(*forms)
    x, z = torch.as_tensor(np.random.default_rng(1).normal(size=(2, 4, 5)))
    product = axes.coordinates(x) @ axes.forms(z).mT
    assert_allclose(product, x @ z.mT, atol=1e-12)
    assert_allclose(axes.rows(axes.coordinates(x)), x, atol=1e-12)


def test_moments_of_few_rows_have_no_negative_direction():
    z = torch.as_tensor(np.random.default_rng(2).normal(size=(2, 6)))
    _, diagonal = Axes.of(torch.eye(6), (z.mT @ z).float())
    assert (diagonal >= 0).all()
    assert (diagonal > 1e-3).sum() == 2
