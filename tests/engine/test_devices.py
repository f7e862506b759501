"""Choosing a device, and lending a model: its state comes back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from denograd_engine.devices import dtype_of, frozen, resolve_device
from denograd_engine.errors import ConfigError

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
