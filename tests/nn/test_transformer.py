"""The stacks: causality, padding, initial sizes."""

import torch

from spear_tts_pytorch.nn.transformer import Transformer


def test_future_positions_get_zero_gradient():
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True)
    x, context = torch.randn(1, 7, 16, requires_grad=True), torch.randn(1, 3, 16)
    decoder(x, context=context)[0, 3].sum().backward()
    assert x.grad[0, 4:].abs().max() == 0
    assert x.grad[0, :4].abs().amax(dim=-1).min() > 0


def test_encoder_padding_changes_nothing():
    torch.manual_seed(0)
    encoder = Transformer(dim=16, depth=2, dim_head=4, heads=4)
    x = torch.randn(1, 5, 16)
    padded = torch.cat((x, torch.randn(1, 4, 16)), dim=1)
    mask = torch.arange(9)[None] < 5
    torch.testing.assert_close(encoder(padded, mask=mask)[:, :5], encoder(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(encoder(padded)[:, :5], encoder(x), atol=1e-2)  # the mask is what does it


def test_hidden_states_are_each_layers_output():
    torch.manual_seed(0)
    encoder, x = Transformer(dim=16, depth=3, dim_head=4, heads=4), torch.randn(2, 5, 16)
    out, hiddens = encoder(x, return_hiddens=True)
    assert len(hiddens) == len(encoder.blocks) == 3
    torch.testing.assert_close(encoder.final_norm(hiddens[-1]), out)
    rotation = encoder.rotary(torch.arange(5))
    for block, before, after in zip(encoder.blocks, [x, *hiddens], hiddens, strict=False):
        torch.testing.assert_close(block(before, rotation), after)
    torch.testing.assert_close(encoder(x), out)


def test_residual_additions_start_small_enough_to_keep_the_variance():
    """Weights have deviation 1/sqrt(inputs); those that add to the residual stream, 1/sqrt(additions) of that."""
    torch.manual_seed(0)
    decoder = Transformer(dim=64, depth=2, dim_head=16, heads=4, causal=True, cross_attend=True)
    scale = 0.88  # the deviation of a normal cut at 2 deviations
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 2:
            wanted = scale * parameter.shape[1] ** -0.5 * (6**-0.5 if "to_out" in name else 1)
            assert abs(parameter.std() / wanted - 1) < 0.05, name
            assert parameter.abs().max() <= 2 * wanted / scale
