"""Each way to compute a linear layer gives the plain product and its gradients."""

import pytest
import torch

from spear_tts_pytorch.nn import linear as linear_module
from spear_tts_pytorch.nn.linear import Linear, linear_by_convolution, linear_of_few_rows, number_of_blocks


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 1, 5), (4, 5), (5,)])
def test_few_rows_block_by_block_are_the_plain_product(monkeypatch, threads, shape):
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    layer, x = Linear(5, 12), torch.randn(shape)
    wanted = layer(x)  # with gradients: the usual kernel
    torch.testing.assert_close(linear_of_few_rows(x, layer.weight, layer.bias), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
    assert [number_of_blocks(size, threads) for size in (12, 7)] == {1: [1, 1], 2: [2, 1], 3: [3, 1], 8: [6, 7]}[
        threads
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 70, 16), (70, 16), (1, 1, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_width_one_is_the_product_and_has_its_gradients(threads, shape, bias):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = torch.nn.Linear(16, 24, bias=bias)
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2].requires_grad_()  # not contiguous
        results = []
        for function in (linear_by_convolution, torch.nn.functional.linear):
            out = function(x, layer.weight, layer.bias)
            results.append((out, torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])))
        torch.testing.assert_close(*results)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("intel", "threads", "autocast", "taken"),
    [(False, 2, False, True), (True, 2, False, False), (False, 1, False, False), (False, 2, True, False)],
)
def test_large_products_go_to_the_convolution_where_it_is_quicker(monkeypatch, intel, threads, autocast, taken):
    calls = []
    monkeypatch.setattr(linear_module, "X86", True)
    monkeypatch.setattr(linear_module, "made_by_intel", lambda: intel)
    monkeypatch.setattr(
        linear_module, "linear_by_convolution", lambda *args: calls.append(1) or linear_by_convolution(*args)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, x = Linear(256, 640), torch.randn(2, 150, 256, requires_grad=True)
        assert x.numel() * 640 >= linear_module.MANY_PRODUCTS
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer(x)
            wanted = torch.nn.functional.linear(x, layer.weight, layer.bias)
        gradients = [
            torch.autograd.grad(y.float().square().mean(), [x, layer.weight, layer.bias]) for y in (out, wanted)
        ]
        torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)
        assert bool(calls) == (taken and torch.backends.mkldnn.is_available())
    finally:
        torch.set_num_threads(before)
