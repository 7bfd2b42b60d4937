"""Rows of two processes: the regulariser and its gradient are those of one process with all rows; one works for all."""

import many
import pytest
import small
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from spear_tts_pytorch.utils.distributed import gather_rows, in_first_process, locked_for_all
from spear_tts_pytorch.utils.files import locked

ROWS = {0: slice(0, 3), 1: slice(3, 5)}  # unequal on purpose


def batch():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(1, 20, (5, n), generator=generator) for n in (6, 9))
    source[3:, 4:], target[3:, 7:] = 0, -1  # the second process could pad to less
    return source, target


def regularizer(rows):
    """The regulariser of some rows of the batch, and the model it is of."""
    model = small.make_model(num_text_token_ids=20, cond_drop_prob=0.5).eval()
    source, target = (ids[rows] for ids in batch())
    source, target = source[:, : int((source != 0).sum(-1).max())], target[:, : int((target != -1).sum(-1).max())]
    options = dict(source_type="text", target_type="speech", return_loss=True, cond_drop_prob=1.0)
    both, plain = (model(source, target, should_sim_regularize=on, **options) for on in (True, False))
    return both - plain, model


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss, model = regularizer(ROWS[rank])
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            gradients[name] = parameter.grad / 2  # as DistributedDataParallel does
    rows = gather_rows(torch.full((rank + 1, 2), rank))
    torch.save({"loss": loss.detach(), "gradients": gradients, "rows": rows}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    loss, model = regularizer(slice(0, 5))
    loss.backward()
    assert loss > 1e-5
    for rank in (0, 1):
        got = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(got["loss"], loss.detach(), atol=1e-6, rtol=1e-4)
        assert got["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(got["gradients"][name], parameter.grad, atol=1e-6, rtol=1e-3)


def test_one_process_is_the_identity():
    x = torch.randn(3, 2)
    assert gather_rows(x) is x


def work_of_the_first(folder, succeeds):
    def work():
        (folder / f"{torch.distributed.get_rank()}").touch()
        if not succeeds:
            raise KeyError("lost")

    in_first_process(work)
    return [path.name for path in folder.iterdir()]


def hold(folder):
    with locked_for_all(folder):
        pass


@pytest.mark.slow
def test_the_first_process_works_for_all(tmp_path):
    assert many.results(2, work_of_the_first, tmp_path, True) == [["0"], ["0"]]
    first, second = many.run(2, work_of_the_first, tmp_path, False)
    assert not first[0] and first[1].startswith("KeyError: 'lost'")
    assert not second[0] and second[1].startswith("FirstProcessError: the first process failed: KeyError: 'lost'")
    with locked(tmp_path):
        first, second = many.run(2, hold, tmp_path)
    assert not first[0] and first[1].startswith("FolderInUseError")
    assert not second[0] and second[1].startswith("FirstProcessError: the first process failed: FolderInUseError")
    in_first_process((tmp_path / "alone").touch)
    assert (tmp_path / "alone").exists()
