"""Choosing a device, lending a model so that its state comes back as it was, and what fits into memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from denograd_engine.devices import CACHE, batch_size_for, dtype_of, frozen, in_parts, resolve_device
from denograd_engine.errors import ConfigError
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import infer_schema
from denograd_engine.smoothing import Smoothing
from tests.engine.problems import fitted, mixed_series, mixed_table

CPU = torch.device("cpu")


class TestResolveDevice:
    def test_auto_is_the_gpu_where_there_is_one(self):
        assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert resolve_device() == resolve_device("auto")

    def test_the_processor_is_always_there(self):
        assert resolve_device("cpu") == CPU

    @pytest.mark.parametrize("name", ["abacus", "meta", "mps", "", "cuda:x", "cuda:-1", "GPU"])
    def test_a_name_that_means_nothing(self, name):
        with pytest.raises(ConfigError) as caught:
            resolve_device(name)
        assert caught.value.problem == f"there is no device {name!r}"
        assert caught.value.expected == "auto, cpu, cuda or cuda:N"
        assert caught.value.where == "device"

    def test_a_gpu_that_is_not_there(self):
        with pytest.raises(ConfigError) as caught:
            resolve_device("cuda:99")
        assert caught.value.problem == "device 'cuda:99' cannot be used"
        assert caught.value.found == f"{torch.cuda.device_count()} of them"
        assert "device: auto or cpu" in caught.value.remedy

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
    def test_a_gpu_where_there_is_none(self):
        with pytest.raises(ConfigError, match="'cuda' cannot be used"):
            resolve_device("cuda")

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_gpu_that_is_there(self):
        assert resolve_device("cuda:0") == torch.device("cuda:0")


def mixed():
    """A model whose parts differ in mode and gradient flags."""
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.9), nn.ReLU()), nn.Linear(4, 1)
    )
    model[1].eval()
    model[3].weight.requires_grad_(False)
    return model


def modes_and_flags(model):
    return [part.training for part in model.modules()], [weight.requires_grad for weight in model.parameters()]


class TestFrozen:
    def test_inside_it_is_in_evaluation_mode_without_gradients(self):
        model = mixed()
        with frozen(model, CPU) as lent:
            assert lent is model
            modes, flags = modes_and_flags(lent)
            assert not any(modes)
            assert not any(flags)

    def test_afterwards_every_part_is_as_it_was(self):
        model = mixed()
        before = modes_and_flags(model)
        assert len(set(before[0])) == len(set(before[1])) == 2
        with frozen(model, CPU):
            model(torch.randn(5, 3))
        assert modes_and_flags(model) == before

    def test_after_an_error_too(self):
        model = mixed()
        before = modes_and_flags(model)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), frozen(model, CPU):
            model(torch.randn(5, 7))
        assert modes_and_flags(model) == before

    def test_lending_twice_gives_back_what_the_first_took(self):
        model = mixed()
        before = modes_and_flags(model)
        with frozen(model, CPU):
            with frozen(model, CPU):
                pass
            assert not any(modes_and_flags(model)[0])
        assert modes_and_flags(model) == before

    def test_the_input_gets_a_gradient_and_the_weights_none(self):
        model = mixed()
        x = torch.randn(5, 3, requires_grad=True)
        with frozen(model, CPU):
            model(x).sum().backward()
        assert x.grad is not None
        assert all(weight.grad is None for weight in model.parameters())

    def test_a_model_without_weights_is_lent_as_it_is(self):
        model = nn.ReLU()
        with frozen(model, CPU):
            assert not model.training
        assert model.training

    def test_a_recurrent_model_gives_the_gradient_of_evaluation_mode(self):
        torch.manual_seed(0)
        model = nn.LSTM(2, 3, num_layers=2, dropout=0.9, batch_first=True)
        x = torch.randn(4, 5, 2, requires_grad=True)
        gradients = []
        with frozen(model, CPU):
            for _ in range(2):
                gradients.extend(torch.autograd.grad(model(x)[0].sum(), x))
        assert torch.equal(gradients[0], gradients[1])
        assert model.training

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
    def test_on_a_gpu_recurrent_models_run_backward_and_come_home(self, layer):
        model = layer(2, 3, num_layers=2, dropout=0.5, batch_first=True)
        cudnn = torch.backends.cudnn.enabled
        with frozen(model, torch.device("cuda")):
            x = torch.randn(4, 5, 2, device="cuda", requires_grad=True)
            assert {weight.device.type for weight in model.parameters()} == {"cuda"}
            (gradient,) = torch.autograd.grad(model(x)[0].sum(), x)
            assert gradient.isfinite().all()
        assert {weight.device.type for weight in model.parameters()} == {"cpu"}
        assert model.training
        assert torch.backends.cudnn.enabled == cudnn


def test_the_type_is_that_of_the_weights():
    assert dtype_of(nn.Linear(2, 1)) is torch.float32
    assert dtype_of(nn.Linear(2, 1).double()) is torch.float64
    assert dtype_of(nn.ReLU()) is torch.float32
    assert dtype_of(nn.Sequential(nn.Embedding(3, 2).half(), nn.Linear(2, 1))) is torch.float16


class Memory:
    """Work that fails above a number of items, and what of it was done."""

    def __init__(self, room):
        self.room, self.done, self.tried = room, [], []

    def __call__(self, part):
        self.tried.append(part.stop - part.start)
        if part.stop - part.start > self.room:
            raise torch.OutOfMemoryError("there is no room")
        self.done.extend(range(part.start, part.stop))


class TestInParts:
    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(count=st.integers(0, 70), size=st.integers(1, 80), room=st.integers(1, 80))
    def test_everything_is_done_once_and_in_order(self, count, size, room):
        work = Memory(room)
        in_parts(work, count, size)
        assert work.done == list(range(count))
        assert all(one <= size for one in work.tried)

    def test_a_part_that_does_not_fit_is_halved_and_stays_so(self):
        work = Memory(room=5)
        in_parts(work, 40, 16)
        assert work.tried == [16, 8, *[4] * 10]

    def test_what_is_done_stays_done_when_room_runs_short_later(self):
        work = Memory(room=8)

        def one(part):
            work.room = 8 if len(work.done) < 16 else 3
            work(part)

        in_parts(one, 26, 8)
        assert work.done == list(range(26))
        assert work.tried == [8, 8, 8, 4, *[2] * 5]

    def test_the_last_part_is_halved_by_its_own_size(self):
        work = Memory(room=2)
        in_parts(work, 5, 1000)
        assert work.tried == [5, 2, 2, 1]

    def test_a_single_item_that_does_not_fit_is_the_callers_business(self):
        work = Memory(room=0)
        with pytest.raises(torch.OutOfMemoryError, match="there is no room"):
            in_parts(work, 40, 16)
        assert work.tried == [16, 8, 4, 2, 1]

    def test_other_errors_pass(self):
        def fail(part):
            raise RuntimeError("shapes do not match")

        with pytest.raises(RuntimeError, match="shapes do not match"):
            in_parts(fail, 40, 16)


class TestBatchSize:
    NETWORKS = (
        nn.Linear(3, 1),
        nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 1)),
        nn.Sequential(nn.Linear(3, 3000), nn.SiLU(), nn.Linear(3000, 1)),
    )

    @pytest.mark.parametrize("network", NETWORKS)
    def test_is_a_power_of_two_and_always_the_same(self, network):
        found = {batch_size_for(network, (3,), torch.zeros(1)) for _ in range(3)}
        (size,) = found
        assert size & (size - 1) == 0
        assert 128 <= size <= 4096

    def test_falls_with_what_an_item_needs(self):
        sizes = [batch_size_for(network, (3,), torch.zeros(1)) for network in self.NETWORKS]
        assert sizes[0] == sizes[1] == 4096
        assert sizes[2] == 1 << (int(CACHE / (4 * 2 * 3000)).bit_length() - 1)
        assert batch_size_for(self.NETWORKS[2].double(), (3,), torch.zeros(1).double()) == sizes[2] // 2
        self.NETWORKS[2].float()

    def test_is_found_where_the_probe_itself_does_not_fit(self):
        class Narrow(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 1)

            def forward(self, x):
                if len(x) > 5:
                    raise torch.OutOfMemoryError
                return self.layer(x)

        assert batch_size_for(Narrow(), (3,), torch.zeros(1)) == batch_size_for(nn.Linear(3, 1), (3,), torch.zeros(1))


class Cramped(nn.Module):
    """A network that has room for a few items only."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room, self.refused = network, room, 0

    def forward(self, x):
        if len(x) > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("there is no room")
        return self.network(x)


class TestLittleMemory:
    @pytest.mark.parametrize("smoothing", [None, Smoothing("fusiongrad", samples=2)], ids=["plain", "smoothed"])
    @pytest.mark.parametrize("batch_size", [None, 64])
    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
    @pytest.mark.parametrize("problem", [mixed_table(2, missing=True), mixed_series(2)], ids=["table", "series"])
    def test_comes_to_the_same(self, problem, rule, batch_size, smoothing):
        refining = Refining(rule=rule, tau=0.3, max_epochs=4, batch_size=batch_size, smoothing=smoothing, device="cpu")
        expected = refine(problem.frame, problem.backbone, refining)
        module = Cramped(problem.backbone.module, 5)
        found = refine(problem.frame, replace(problem.backbone, module=module), refining)
        assert module.refused > 0
        cells = problem.schema.cells
        np.testing.assert_allclose(found.frame[cells], expected.frame[cells], rtol=1e-9)
        assert found.rows["status"].tolist() == expected.rows["status"].tolist()
        assert found.totals.eta == pytest.approx(expected.totals.eta)
        assert found.totals.moved > 20

    def test_with_bounds(self):
        problem = mixed_table(2)
        schema = infer_schema(problem.frame, ["y0", "y1"], ignored=["note"], bounds={"speed": (-0.5, 0.5)})
        backbone = fitted(problem.frame, schema, problem.backbone.module)
        refining = Refining(tau=0.3, max_epochs=4, device="cpu")
        found = refine(problem.frame, replace(backbone, module=Cramped(backbone.module, 5)), refining)
        pd.testing.assert_frame_equal(found.frame, refine(problem.frame, backbone, refining).frame, rtol=1e-9)

    def test_not_even_room_for_one_item_is_told(self):
        problem = mixed_table()
        with pytest.raises(torch.OutOfMemoryError, match="there is no room"):
            refine(problem.frame, replace(problem.backbone, module=Cramped(problem.backbone.module, 0)))
