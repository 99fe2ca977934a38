from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from notellm2.errors import InputError
from notellm2.model.network.fitted_start import Discriminant, fit_map, fitted_log_scale, mean_cosine
from notellm2.model.network.loss import pair_loss

NOTES, WIDTH, LATENT = 600, 12, 3


def planted(seed: int = 0, *, noise: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Nearly parallel inputs whose partners agree on `LATENT` weak directions: inputs, pairs, the directions."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((NOTES // 2, LATENT))
    basis = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    shared, rest, common = basis[:, :LATENT], basis[:, LATENT:-1], basis[:, -1]
    x = np.repeat(topics, 2, axis=0) @ shared.T
    # Large noise elsewhere: what varies most is not what partners share.
    x += noise * 3 * rng.standard_normal((NOTES, rest.shape[1])) @ rest.T
    x += noise * 0.3 * rng.standard_normal((NOTES, WIDTH)) + 40 * common
    return torch.from_numpy(x), torch.arange(NOTES).reshape(-1, 2), torch.from_numpy(shared)


def cosines(x: Tensor) -> Tensor:
    unit = functional.normalize(x, dim=-1)
    return unit @ unit.T


def test_the_common_direction_is_gone() -> None:
    x, pairs, _ = planted()
    assert mean_cosine(functional.normalize(x, dim=-1)) > 0.8
    rows = Discriminant(x, pairs).map(6, 1.0).double()
    common = x.mean(0) / x.mean(0).norm()
    assert float((rows @ common).abs().max()) < 1e-6
    assert abs(mean_cosine(functional.normalize(x @ rows.T, dim=-1))) < 0.05


def test_it_picks_the_directions_on_which_partners_agree() -> None:
    x, pairs, shared = planted()
    rows = Discriminant(x, pairs).map(6, 0.1).double()
    inside = (rows @ shared).norm(dim=1) / rows.norm(dim=1)
    assert inside[:LATENT].min() > 0.9, "the planted directions do not lead"
    assert rows[:LATENT].norm() > 3 * rows[LATENT:].norm(), "noise is as loud as what partners share"
    y = x @ rows.T
    similar = cosines(y)
    assert similar[0::2, 1::2].diagonal().mean() > 0.6 > 0.1 > similar.mean()
    assert float(y.square().mean()) == pytest.approx(1, rel=1e-4)


def test_the_signs_of_eigenvectors_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's eigh may return any of them mirrored."""
    x, pairs, _ = planted()
    expected = Discriminant(x, pairs).map(4, 1.0)
    eigh = torch.linalg.eigh

    def mirrored(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, vectors * torch.tensor([1.0, -1.0, -1.0] * 4)

    monkeypatch.setattr(torch.linalg, "eigh", mirrored)
    torch.testing.assert_close(Discriminant(x, pairs).map(4, 1.0), expected)


def test_it_is_the_same_every_time_with_fixed_signs() -> None:
    x, pairs, _ = planted()
    first = Discriminant(x, pairs).map(4, 1.0)
    assert first.equal(Discriminant(x.clone(), pairs).map(4, 1.0))
    # The same problem mirrored: eigenvectors may come out with any sign, the map must not.
    torch.testing.assert_close(Discriminant(x, pairs.flip(1)).map(4, 1.0), first, atol=1e-5, rtol=1e-4)
    turned = torch.randperm(NOTES // 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Discriminant(x, pairs[turned]).map(4, 1.0), first, atol=1e-5, rtol=1e-4)


def test_rows_beyond_the_inputs_width_are_zero() -> None:
    x, pairs, _ = planted()
    rows = Discriminant(x, pairs).map(WIDTH + 5, 1.0)
    assert rows.shape == (WIDTH + 5, WIDTH)
    assert not rows[WIDTH:].any()
    assert float((x @ rows.double().T).square().mean()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("bad", [torch.ones(8, 3), torch.full((8, 3), float("nan")), torch.zeros(8, 3)])
def test_inputs_that_say_nothing_are_an_error(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="all alike or not finite"):
        Discriminant(bad, torch.arange(8).reshape(-1, 2))


def test_the_fitted_scale_is_the_best_of_all_and_never_above_chance() -> None:
    x = functional.normalize(torch.randn(80, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    x[1::2] = functional.normalize(x[::2] + 0.3 * x[1::2], dim=-1)
    scale, loss = fitted_log_scale(x)
    assert loss == pytest.approx(float(pair_loss(x, torch.tensor(scale))))
    assert loss < math.log(79) - 0.5
    for other in np.arange(-2, 4.01, 0.5):
        assert float(pair_loss(x, torch.tensor(other))) >= loss - 1e-6


def test_partners_that_disagree_get_the_flattest_scale() -> None:
    x = functional.normalize(torch.randn(80, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    x[1::2] = -x[::2]
    scale, loss = fitted_log_scale(x)
    assert scale == -2.0
    assert loss == pytest.approx(math.log(79), abs=0.2)


def test_the_fit_promises_what_unseen_notes_give() -> None:
    x, pairs, _ = planted()
    fitted = fit_map(x, pairs, 6, seed=0)
    other, other_pairs, _ = planted()
    assert fitted.gain > 0.5
    held_out = functional.normalize((other @ fitted.weight_DH.double().T)[other_pairs[:40].reshape(-1)], dim=-1)
    assert float(pair_loss(held_out, torch.tensor(fitted.log_scale))) < math.log(79) - 0.5
    again = fit_map(x, pairs, 6, seed=0)
    assert fitted.weight_DH.equal(again.weight_DH)
    assert (fitted.shrinkage, fitted.log_scale, fitted.gain) == (again.shrinkage, again.log_scale, again.gain)


def test_partners_without_likeness_promise_nothing() -> None:
    """More inputs than pairs: the fit knows its own pairs by heart, and must not believe itself."""
    generator = torch.Generator().manual_seed(0)
    fitted = fit_map(torch.randn(200, 150, generator=generator), torch.arange(200).reshape(-1, 2), 16, seed=0)
    assert fitted.gain < 0.05
    assert fitted.log_scale <= 0.0


def test_notes_drawn_many_times_do_not_flatten_the_scale() -> None:
    """Every note with every other of its topic, as mined pairs are: sorted by query, ten targets each."""
    rng = np.random.default_rng(0)
    topic = np.arange(200) // 5
    x = torch.from_numpy(rng.standard_normal((40, 8))[topic] + 0.1 * rng.standard_normal((200, 8)) + 10)
    pairs = torch.tensor([(a, b) for a in range(200) for b in range(200) if a != b and topic[a] == topic[b]])
    fitted = fit_map(x, pairs, 8, seed=0)
    assert fitted.log_scale >= 3.5
    assert fitted.gain > 3


def test_too_few_pairs_are_an_input_error() -> None:
    with pytest.raises(InputError, match=r"no start can be fitted to 3 pairs.*model.start: random"):
        fit_map(torch.randn(6, 4), torch.arange(6).reshape(-1, 2), 2, seed=0)


def test_mean_cosine_leaves_out_the_diagonal() -> None:
    x = functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(2)), dim=-1)
    similar = cosines(x)
    expected = (similar.sum() - 9) / 72
    assert mean_cosine(x) == pytest.approx(float(expected), abs=1e-6)
    assert mean_cosine(torch.ones(5, 1)) == pytest.approx(1.0)
