"""The parts of the rule `posterior` against closed forms: conditional Gaussians, posteriors, Stein's estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from denograd_engine.posterior.calibration import SPEAKING, Trust, calibrate, evened, risk
from denograd_engine.posterior.contexts import ALONE, Contexts
from denograd_engine.posterior.departures import Departure, Departures, departures
from denograd_engine.posterior.fitting import Member
from denograd_engine.posterior.folds import fitted_on, folds_of, inner
from denograd_engine.posterior.gaussian import Gaussian
from denograd_engine.posterior.mixture import Mixture
from denograd_engine.posterior.network import BlindNet
from denograd_engine.posterior.seasons import neighbourhood, seasonal_lags
from denograd_engine.posterior.task import Fit, Task


def contexts_of(cells, beside=None, present=None, runs=None, lags=ALONE):
    cells = torch.as_tensor(np.asarray(cells), dtype=torch.float32)
    present = torch.ones_like(cells, dtype=torch.bool) if present is None else torch.as_tensor(present)
    beside = torch.zeros(len(cells), 0) if beside is None else torch.as_tensor(beside, dtype=torch.float32)
    known = torch.ones_like(beside, dtype=torch.bool)
    cells = torch.where(present, cells, 0.0)
    return Contexts(cells, present, beside, known, runs, lags, np.arange(len(cells)))


def correlated(rows, columns, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, columns)) @ generator.normal(size=(columns, columns)) + 1.0


def task_of(columns, noise=0.1, targets=(), ridge=0.03, correlation=(0,)):
    ridges = torch.as_tensor(ridge).broadcast_to((columns,))
    return Task(torch.arange(columns), targets, torch.full((columns,), noise), ridges, correlation=correlation)


def conditional(mean, covariance, x, of, given):
    """E[x_of | x_given], the textbook's way."""
    weights = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, [of])])
    return mean[of] + (x[given] - mean[given]) @ weights[:, 0]


class TestContexts:
    def test_a_row_of_a_table_is_its_cells_and_what_is_frozen(self):
        x, present = contexts_of([[1, 2], [3, 4]], beside=[[5], [6]]).gather(torch.tensor([1]))
        assert x.tolist() == [[3, 4, 6]]
        assert present.all()

    def test_steps_beyond_the_ends_of_a_run_are_missing(self):
        contexts = contexts_of([[1], [2], [3], [4]], runs=(2, 2), lags=(-1, 0, 1))
        x, present = contexts.gather(torch.arange(4))
        assert x.tolist() == [[0, 1, 2], [1, 2, 0], [0, 3, 4], [3, 4, 0]]
        assert present.tolist() == [[False, True, True], [True, True, False], [False, True, True], [True, True, False]]

    def test_a_missing_cell_is_missing_in_every_context(self):
        contexts = contexts_of([[1], [2], [3]], present=[[True], [False], [True]], runs=(3,), lags=(-1, 0))
        assert contexts.gather(torch.tensor([2]))[1].tolist() == [[False, True]]


class TestLinearPart:
    @pytest.mark.parametrize("hidden", [(), (1,), (0, 3)])
    def test_a_cell_is_predicted_as_a_gaussian_says_given_all_others(self, hidden):
        data = correlated(200, 5)
        contexts, shape = contexts_of(data), task_of(5, ridge=0.0).shape(contexts_of(data), Fit())
        linear = Gaussian.fit(contexts, torch.arange(200))
        mask = torch.zeros(3, 5, dtype=torch.bool)
        mask[:, list(hidden)] = True
        blind = linear.blind(contexts, torch.arange(3), shape, mask)
        mean, covariance = linear.mean.numpy(), linear.covariance[0].numpy()
        for row in range(3):
            for cell in range(5):
                given = [at for at in range(5) if at != cell and at not in hidden]
                expected = conditional(mean, covariance, data[row], cell, given)
                assert float(blind.predicted[row, 0, cell]) == pytest.approx(expected, abs=2e-4)

    @pytest.mark.parametrize("gaps", [(), (0,), (1, 5)])
    def test_where_noise_hangs_together_a_cell_is_predicted_without_its_own_column_nearby(self, gaps):
        lags, steps = (-3, -1, 0, 1, 3), 90
        data, present = correlated(steps, 2), np.ones((steps, 2), dtype=bool)
        present[[40 + lags[gap // 2] for gap in gaps], [gap % 2 for gap in gaps]] = False
        contexts = contexts_of(data, present=present, runs=(steps,), lags=lags)
        linear = Gaussian.fit(contexts, torch.arange(steps))
        shape = task_of(2, ridge=0.0, correlation=(1, 0)).shape(contexts, Fit())
        assert not len(shape.kept)
        blind = linear.blind(contexts, torch.tensor([40]), shape)
        x, seen = contexts.gather(torch.tensor([40]))
        mean, covariance = linear.mean.numpy(), linear.covariance[0].numpy()
        for cell, hidden in ((0, (2, 4, 6)), (1, (5,))):
            given = [at for at in range(10) if at not in hidden and bool(seen[0, at])]
            expected = conditional(mean, covariance, x[0].numpy(), 4 + cell, given)
            assert float(blind.predicted[0, 0, cell]) == pytest.approx(expected, abs=2e-4)

    def test_the_cleaned_context_is_the_posterior_mean_under_the_noise(self):
        data, noise = correlated(300, 4), 0.3
        contexts = contexts_of(data)
        linear = Gaussian.fit(contexts, torch.arange(300))
        shape = task_of(4, noise, ridge=0.0).shape(contexts, Fit())
        blind = linear.blind(contexts, torch.arange(10), shape)
        covariance = linear.covariance[0].numpy()
        gain = (covariance - noise * np.eye(4)) @ np.linalg.inv(covariance)
        expected = linear.mean.numpy() + (data[:10] - linear.mean.numpy()) @ gain.T
        np.testing.assert_allclose(blind.cleaned, expected, atol=2e-4)

    def test_the_gain_takes_a_cell_out_of_the_cleaned_context(self):
        data = correlated(200, 4)
        shape = task_of(4, 0.3).shape(contexts_of(data), Fit())
        linear = Gaussian.fit(contexts_of(data), torch.arange(200))
        data[7, 2] += 50.0
        there = contexts_of(data).cells[7:8]
        after = linear.blind(contexts_of(data), torch.tensor([7]), shape)
        data[7, 2] -= 80.0
        here = contexts_of(data).cells[7:8]
        before = linear.blind(contexts_of(data), torch.tensor([7]), shape)
        assert float(after.predicted[0, 0, 2]) == pytest.approx(float(before.predicted[0, 0, 2]), abs=1e-3)
        without = [
            blind.cleaned[0] + (blind.predicted[0, 0, 2] - cells[0, 2]) * blind.gain[0, 2]
            for blind, cells in ((after, there), (before, here))
        ]
        torch.testing.assert_close(*without, atol=1e-3, rtol=0)

    def test_items_with_and_without_gaps_go_together(self):
        data = correlated(60, 3)
        present = np.random.default_rng(0).random((60, 3)) > 0.2
        whole = Gaussian.fit(contexts_of(data), torch.arange(60))
        shape = task_of(3).shape(contexts_of(data), Fit())
        joint = whole.blind(contexts_of(data, present=present), torch.arange(60), shape)
        for row in range(0, 60, 7):
            alone = whole.blind(contexts_of(data, present=present), torch.tensor([row]), shape)
            torch.testing.assert_close(alone.predicted[0], joint.predicted[row], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.cleaned[0], joint.cleaned[row], atol=1e-5, rtol=0)

    def test_views_of_a_series_see_their_side_alone(self):
        steps = contexts_of(correlated(80, 2), runs=(80,), lags=(-1, 0, 1))
        shape = task_of(2).shape(steps, Fit())
        linear = Gaussian.fit(steps, torch.arange(80))
        blind = linear.blind(steps, torch.tensor([40]), shape)
        later = steps.cells.clone()
        later[41] += 10
        moved = linear.blind(contexts_of(later, runs=(80,), lags=(-1, 0, 1)), torch.tensor([40]), shape)
        torch.testing.assert_close(moved.predicted[0, 1], blind.predicted[0, 1])  # the past
        torch.testing.assert_close(moved.predicted[0, 3], blind.predicted[0, 3])  # the same step
        assert (moved.predicted[0, [0, 2]] - blind.predicted[0, [0, 2]]).abs().min() > 1e-3


class TestBlindSpot:
    def test_nothing_of_what_is_said_of_a_cell_depends_on_cells_whose_noise_it_shares(self):
        torch.manual_seed(0)
        options, data = {"runs": (120,), "lags": tuple(range(-6, 7))}, correlated(120, 3)
        contexts, task = contexts_of(data, **options), task_of(3, correlation=(0, 4, 0))
        shape = task.shape(contexts, Fit())
        network = BlindNet(3, 0, len(shape.views), 16, 2, 0.0, 3)
        torch.nn.init.normal_(network.out, std=0.5)
        member = Member(Gaussian.fit(contexts, torch.arange(120)), network, torch.ones(3))
        before = member.mixture(contexts, torch.tensor([60]), shape, task)
        data[56:65, 1] += 3.0
        near = member.mixture(contexts_of(data, **options), torch.tensor([60]), shape, task)
        data[65, 1] += 3.0
        far = member.mixture(contexts_of(data, **options), torch.tensor([60]), shape, task)
        torch.testing.assert_close(near.mean[0, :, 1], before.mean[0, :, 1], atol=2e-4, rtol=2e-4)
        assert (near.mean[0, :, [0, 2]] - before.mean[0, :, [0, 2]]).abs().max() > 1e-3
        assert (far.mean[0, :, 1] - near.mean[0, :, 1]).abs().max() > 1e-3

    @pytest.mark.parametrize("kind", ["table", "series"])
    def test_what_is_said_of_a_cell_does_not_depend_on_it(self, kind):
        torch.manual_seed(0)
        options = {"runs": (120,), "lags": (-2, -1, 0, 1, 2)} if kind == "series" else {}
        data = correlated(120, 3)
        contexts, fit = contexts_of(data, **options), Fit(hidden=16, near=2)
        shape = task_of(3).shape(contexts, fit)
        network = BlindNet(3, len(shape.kept), len(shape.views), 16, 2, 0.0, 3)
        torch.nn.init.normal_(network.out, std=0.5)
        member = Member(Gaussian.fit(contexts, torch.arange(120)), network, torch.ones(3))
        before = member.mixture(contexts, torch.arange(120), shape, task_of(3))
        data[60, 1] += 3.0
        after = member.mixture(contexts_of(data, **options), torch.arange(120), shape, task_of(3))
        for said in ("weight", "mean", "variance"):
            was, is_ = getattr(before, said)[60], getattr(after, said)[60]
            torch.testing.assert_close(is_[:, 1], was[:, 1], atol=2e-4, rtol=2e-4)
            assert (is_[:, [0, 2]] - was[:, [0, 2]]).abs().max() > 1e-3


def some_mixture(items=4, components=3, cells=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (items, components, cells)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Mixture(weight, mean, torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1)


NOISE = torch.tensor([0.3, 0.5], dtype=torch.float64)


class TestMixture:
    def test_one_component_is_the_formula_of_two_measurements(self):
        s2, mean, observed = 0.7, torch.tensor([[[0.4]]]), torch.tensor([[1.9]])
        found, variance = Mixture(torch.zeros(1, 1, 1), mean, torch.full((1, 1, 1), s2)).posterior(
            observed, torch.tensor([0.2])
        )
        assert float(found) == pytest.approx((s2 * 1.9 + 0.2 * 0.4) / (s2 + 0.2))
        assert float(variance) == pytest.approx(s2 * 0.2 / (s2 + 0.2))

    def test_the_posterior_is_what_integration_finds(self):
        mixture, observed = some_mixture(1, 3, 1), torch.tensor([[0.8]], dtype=torch.float64)
        grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
        weight, mean, variance = (part[0, :, 0, None] for part in (mixture.weight, mixture.mean, mixture.variance))
        prior = (weight.exp() * torch.exp(-0.5 * (grid - mean) ** 2 / variance) / variance.sqrt()).sum(dim=0)
        density = prior * torch.exp(-0.5 * (0.8 - grid) ** 2 / NOISE[0])
        density /= density.sum()
        expected = (grid * density).sum()
        found, spread = mixture.posterior(observed, NOISE[:1])
        assert float(found) == pytest.approx(float(expected), abs=1e-6)
        assert float(spread) == pytest.approx(float(((grid - expected) ** 2 * density).sum()), abs=1e-6)

    def test_the_slope_of_the_mean_is_the_variance_over_the_noise(self):
        mixture = some_mixture()
        observed = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
        mean, variance = mixture.posterior(observed, NOISE)
        (slope,) = torch.autograd.grad(mean.sum(), observed)
        torch.testing.assert_close(slope, (variance / NOISE).detach())

    def test_the_likelihood_integrates_to_one(self):
        grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
        density = some_mixture(1).log_likelihood(grid[:, None].expand(-1, 2), NOISE).exp() / np.sqrt(2 * np.pi)
        torch.testing.assert_close(density.sum(dim=0) * (grid[1] - grid[0]), torch.ones(2, dtype=torch.float64))

    def test_draws_have_the_moments_of_the_posterior(self):
        mixture, observed = some_mixture(1), torch.tensor([[0.5, -1.0]], dtype=torch.float64)
        mean, variance = mixture.posterior(observed, NOISE)
        many = Mixture(*(part.expand(200_000, -1, -1) for part in (mixture.weight, mixture.mean, mixture.variance)))
        drawn = many.draw(observed.expand(200_000, -1), NOISE, torch.Generator().manual_seed(0))
        torch.testing.assert_close(drawn.mean(dim=0), mean[0], atol=5e-3, rtol=0)
        torch.testing.assert_close(drawn.var(dim=0), variance[0], atol=5e-3, rtol=0)


def noisy_draws(prior, claimed, items=40_000, noise=0.25):
    """Clean cells of a known prior, noisy, which are there, and a mixture that claims another variance for them."""
    generator = torch.Generator().manual_seed(0)
    clean = prior**0.5 * torch.randn(items, 1, generator=generator)
    observed = clean + noise**0.5 * torch.randn(items, 1, generator=generator)
    zero = torch.zeros(items, 1, 1)
    there = torch.ones(items, 1, dtype=torch.bool)
    return clean, observed, there, Mixture(zero, zero, zero + claimed), zero + noise


class TestCalibration:
    @pytest.mark.parametrize("claimed", [0.05, 0.2, 1.0])
    def test_the_risk_is_estimated_without_the_truth(self, claimed):
        clean, observed, there, mixture, errors = noisy_draws(0.2, claimed)
        mean, _ = mixture.posterior(observed, errors)
        error, _ = risk(mixture, observed, there, errors)
        assert float(error) == pytest.approx(float((mean - clean).square().mean()), abs=0.006)

    def test_what_is_too_sure_of_itself_is_widened(self):
        _, observed, there, mixture, errors = noisy_draws(0.2, 0.05)
        factor, off = calibrate(mixture, observed, there, errors, less=torch.tensor([False]))
        assert float(factor) == pytest.approx(4.0, rel=0.3)
        assert float(off) == pytest.approx(1.0, abs=0.05)

    def test_what_is_right_is_left(self):
        _, observed, there, mixture, errors = noisy_draws(0.2, 0.2)
        factor, off = calibrate(mixture, observed, there, errors, less=torch.tensor([False]))
        assert 0.85 <= float(factor) <= 1.2
        assert float(off) == pytest.approx(1.0, abs=0.05)

    @pytest.mark.parametrize(("less", "expected"), [(True, 0.25), (False, 1.0)])
    def test_what_is_not_sure_enough_is_narrowed_only_where_it_may_be(self, less, expected):
        _, observed, there, mixture, errors = noisy_draws(0.2, 0.8)
        factor, _ = calibrate(mixture, observed, there, errors, less=torch.tensor([less]))
        assert float(factor) == expected

    def test_variances_that_chance_explains_are_drawn_together_and_others_are_not(self):
        items, noise = 4000, torch.tensor([1.0, 1.0])
        claimed = torch.tensor([[0.002, 0.1], [0.3, 4.0]]).repeat(items // 2, 1)[:, None]
        zero = torch.zeros_like(claimed)
        observed, present = torch.zeros(items, 2), torch.ones(items, 2, dtype=torch.bool)
        mixture = Mixture(zero, zero, claimed)
        typical, share = evened(mixture, observed, present, noise, noise.expand(claimed.shape))
        variance = mixture.posterior(observed, noise)[1]
        torch.testing.assert_close(typical, variance.mean(dim=0))
        chance = 2 / (SPEAKING * items)
        torch.testing.assert_close(share, chance / (chance + variance.var(dim=0, unbiased=False)))
        assert share[0] > 2 * share[1]
        one = torch.ones(2)
        trusted = Trust(Departures.none(noise), one, one, typical, share).variance(variance)
        torch.testing.assert_close(trusted.mean(dim=0), typical)
        assert (trusted.std(dim=0) < variance.std(dim=0)).all()


class TestDepartures:
    """Of noise with variance 1, from cells that are foretold with a known variance."""

    ITEMS = 5000

    def found(self, variance, noise, mixture=None, doubted=False):
        """What departs where clean cells with this variance, around 0, carry this noise; and what it is judged by."""
        generator = torch.Generator().manual_seed(1)
        clean = variance.sqrt() * torch.randn(self.ITEMS, generator=generator)
        observed = (clean + noise)[:, None]
        zero = torch.zeros(self.ITEMS, 3, 1)
        if mixture is None:
            mixture = Mixture(zero - math.log(3), zero, variance.expand(self.ITEMS)[:, None, None] + zero)
        there, one = torch.ones_like(observed, dtype=torch.bool), torch.ones(1)
        return departures(mixture, observed, there, one, torch.tensor([doubted])), mixture, observed, clean[:, None]

    def wrong(self, mixture, errors, observed, clean):
        """Mean squared error of the posterior mean."""
        return float((mixture.posterior(observed, errors)[0] - clean).square().mean())

    def gaussian(self):
        return torch.randn(self.ITEMS, generator=torch.Generator().manual_seed(2))

    def laplace(self):
        both = torch.rand(2, self.ITEMS, generator=torch.Generator().manual_seed(2)).log()
        return (both[0] - both[1]) / math.sqrt(2)

    def test_gaussian_noise_does_not_depart_and_all_stays_as_the_model_says(self):
        found, mixture, _, _ = self.found(torch.tensor(0.3), self.gaussian())
        assert found.kinds() == [None]
        believed, errors = found.believed(mixture, torch.ones(1))
        for name in ("weight", "mean", "variance"):
            assert torch.equal(getattr(believed, name), getattr(mixture, name))
        assert torch.equal(errors, torch.ones_like(mixture.variance))

    def test_cells_that_are_no_gaussians_do_not_pass_for_heavy_tails(self):
        spread = torch.where(torch.arange(self.ITEMS) % 20 == 0, 100.0, 0.01)
        shares = torch.tensor([0.95, 0.05 - 1e-6, 1e-6]).log()[:, None].expand(self.ITEMS, 3, 1)
        variances = torch.tensor([0.01, 100.0, 100.0])[:, None].expand(self.ITEMS, 3, 1)
        mixture = Mixture(shares, torch.zeros_like(shares), variances)
        found, _, _, _ = self.found(spread, self.gaussian(), mixture)
        assert found.kinds() == [None]

    def test_heavy_tails_are_found_and_the_mean_is_then_linear_in_the_measurement(self):
        found, mixture, observed, _ = self.found(torch.tensor(0.3), self.laplace())
        assert found.kinds() == [Departure.HEAVY]
        believed, errors = found.believed(mixture, torch.ones(1))
        mean, _ = believed.posterior(observed, errors)
        torch.testing.assert_close(mean, 0.3 / 1.3 * observed)

    def test_a_mixture_that_took_tails_for_signal_loses_its_tails(self):
        shares = torch.tensor([0.6, 0.3, 0.1]).log()[:, None].expand(self.ITEMS, 3, 1)
        variances = torch.tensor([0.001, 0.3, 3.0])[:, None].expand(self.ITEMS, 3, 1)
        mixture = Mixture(shares, torch.zeros_like(shares), variances)
        found, _, observed, clean = self.found(torch.tensor(0.05), self.laplace(), mixture)
        assert found.kinds() == [Departure.HEAVY]
        believed, errors = found.believed(mixture, torch.ones(1))
        assert self.wrong(believed, errors, observed, clean) < 0.8 * self.wrong(mixture, errors, observed, clean)

    def test_noise_that_differs_is_found_and_each_cell_gets_its_own(self):
        truth = torch.linspace(0.2, 1.8, self.ITEMS)
        claimed = Mixture(
            *(torch.zeros(self.ITEMS, 1, 1) for _ in "wm"), (truth + 0.1 - 1).clamp_min(0.01)[:, None, None]
        )
        found, mixture, observed, clean = self.found(torch.tensor(0.1), truth.sqrt() * self.gaussian(), claimed)
        assert found.kinds() == [Departure.UNEVEN]
        believed, errors = found.believed(mixture, torch.ones(1))
        assert float(errors.mean()) == pytest.approx(1.0, abs=0.02)
        assert float(torch.corrcoef(torch.stack([errors[:, 0, 0], truth]))[0, 1]) > 0.8
        alike = torch.ones_like(errors)
        assert self.wrong(believed, errors, observed, clean) < 0.7 * self.wrong(mixture, alike, observed, clean)

    def test_where_its_size_is_in_doubt_there_is_less_noise_rather_than_noise_that_differs(self):
        spread = torch.linspace(0.05, 1.0, self.ITEMS)
        zero = torch.zeros(self.ITEMS, 1, 1)
        claimed = Mixture(zero, zero, 0.3 * spread[:, None, None])
        found, mixture, observed, clean = self.found(spread, 0.5 * self.gaussian(), claimed, doubted=True)
        assert found.kinds() == [None]
        assert 0.25 <= float(found.mean) < 0.5
        believed, errors = found.believed(mixture, torch.ones(1))
        torch.testing.assert_close(errors, found.share.expand(errors.shape))
        alike = torch.ones_like(errors)
        assert self.wrong(believed, errors, observed, clean) < 0.7 * self.wrong(mixture, alike, observed, clean)

    def test_few_cells_say_nothing(self):
        squares = torch.zeros(200, 1)
        zero = torch.zeros(200, 1, 1)
        claimed = torch.linspace(0.1, 0.2, 200)[:, None, None]
        there, sure = torch.ones_like(squares).bool(), torch.tensor([False])
        found = departures(Mixture(zero, zero, claimed), squares, there, torch.ones(1), sure)
        assert not found.resized.any()


class TestFolds:
    def test_equal_rows_of_a_table_share_a_fold_wherever_they_are(self):
        data = correlated(100, 3)
        twice = np.concatenate([data, data[::-1]])
        fold = folds_of(contexts_of(twice), 5)
        assert fold[:100].tolist() == fold[100:].flip(0).tolist()
        assert fold.bincount().min() > 20

    def test_folds_of_a_series_are_blocks(self):
        fold = folds_of(contexts_of(correlated(200, 1), runs=(200,)), 5)
        assert int((fold.diff() != 0).sum()) == 19
        assert fold.bincount().tolist() == [40] * 5

    def test_no_item_near_the_fold_left_out_is_fitted_on(self):
        contexts = contexts_of(correlated(200, 1), runs=(200,))
        fold = folds_of(contexts, 5)
        items = fitted_on(contexts, fold, 2, reach=3)
        out = (fold == 2).nonzero().squeeze(1)
        assert int((items[:, None] - out[None]).abs().min()) == 4

    @pytest.mark.parametrize("runs", [None, (150,)])
    def test_inner_parts_are_all_items_once(self, runs):
        items = torch.arange(0, 150, 2)
        parts = list(inner(contexts_of(correlated(150, 1), runs=runs), items, 4, seed=0))
        assert torch.cat([held_out for held_out, _ in parts]).sort().values.tolist() == items.tolist()
        for held_out, others in parts:
            assert not set(held_out.tolist()) & set(others.tolist())


class TestSeasons:
    @staticmethod
    def lags(cells, runs):
        contexts = contexts_of(cells, runs=runs, lags=neighbourhood(max(runs)))
        items = torch.arange(len(contexts))
        shape = task_of(cells.shape[1]).shape(contexts, Fit())
        left = Gaussian.fit(contexts, items).blind(contexts, items, shape).predicted[:, 0] - contexts.cells
        return seasonal_lags(contexts, left)

    def test_a_period_is_found(self):
        generator = np.random.default_rng(0)
        pattern = generator.normal(size=50)
        cells = np.tile(pattern, 40)[:, None] + 0.3 * generator.normal(size=(2000, 1))
        assert any(lag % 50 == 0 for lag in self.lags(cells, (2000,)))

    def test_noise_has_none(self):
        assert self.lags(np.random.default_rng(0).normal(size=(2000, 3)), (1200, 800)) == ()

    def test_short_runs_have_short_neighbourhoods(self):
        assert neighbourhood(9) == (-2, -1, 0, 1, 2)

    def test_where_noise_hangs_together_there_are_steps_beyond(self):
        plain, further = neighbourhood(1000), neighbourhood(1000, (0, 20, 20))
        assert plain == neighbourhood(1000, (0, 0)) == tuple(range(-12, 13))
        assert set(further) - set(plain) == {side * (20 + more) for side in (-1, 1) for more in (1, 2, 3, 4, 6, 8, 12)}
        assert max(neighbourhood(100, (20,))) == 24
