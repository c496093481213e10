"""The first layer: values and gradients are those of gathered rows."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from skrec._gradient.layers import FirstLayer


def made(n, n_candidates, n_members, n_in, n_out, n_users=5, n_items=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (
        (n_users, n_members, n_in),
        (n_members, n_in, n_out),
        (n_items, n_members, n_in),
        (n_members, n_in, n_out),
        (n_members, 1, n_out),
    )
    weights = [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]
    users = torch.from_numpy(rng.integers(n_users, size=n))
    items = torch.from_numpy(rng.integers(n_items, size=(n, n_candidates)))
    return weights, users, items


def gathered(weights, users, items):
    user_table, user_weight, item_table, item_weight, bias = weights
    of_users = torch.einsum("nmi,mio->nmo", user_table[users], user_weight)
    of_items = torch.einsum("ncmi,mio->ncmo", item_table[items], item_weight)
    return (of_users[:, None] + of_items + bias[:, 0]).flatten(0, 1).flatten(1)


sizes = st.integers(1, 3)


# Few rows and many: tables whose rows are looked up seldom, and often.
@given(st.integers(0, 20), sizes, sizes, sizes, sizes, st.integers(0, 99))
def test_hidden_units_and_gradients_are_those_of_gathered_rows(n, c, m, i, o, seed):
    weights, users, items = made(n, c, m, i, o, seed=seed)
    slope = torch.from_numpy(np.random.default_rng(seed).normal(size=(n * c, m * o)))
    found = []
    for function in (lambda w, u, i: FirstLayer.apply(*w, u, i), gathered):
        given = [weight.clone().requires_grad_() for weight in weights]
        hidden = function(given, users, items)
        # As activations do.
        hidden = hidden.relu_() if hidden.numel() else hidden
        hidden.backward(slope)
        found.append([hidden.detach(), *(weight.grad for weight in given)])
    torch.testing.assert_close(*found)
