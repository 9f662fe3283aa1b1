"""FixedMask: masks from Python, from checkpoints, and shuffled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from table import quiet_trainer
from torch import nn

from lightning_subnets import (
    EdgePopup,
    FixedMask,
    Multicoated,
    UserError,
    mask_,
    masked_weights,
    masks,
    raw_weight,
    read_masks,
)
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking import initialization
from lightning_subnets.networks import Conv2, Conv4
from lightning_subnets.training.module import SubnetModule


def test_a_mask_of_a_run_has_the_weights_of_the_seed_and_is_shuffled_by_it(finished_run: Path) -> None:
    found = read_masks(
        str(finished_run / "checkpoints" / "last.ckpt"), Conv2(in_channels=1, image_size=8, norm="batch")
    )

    def network(seed: int) -> nn.Module:
        method = FixedMask(found, shuffle=True)
        return mask_(Conv2(in_channels=1, image_size=8, norm="batch"), method, weights="kaiming_uniform", seed=seed)

    first, same, other = (masks(network(seed)) for seed in (1, 1, 2))
    for name, mask in first.items():
        assert torch.equal(mask, same[name])
        assert not torch.equal(mask, other[name])
    name, layer = next(iter(masked_weights(network(7)).items()))
    drawn = initialization.draw_weights(
        "kaiming_uniform", layer.weight.shape, seed=7, stream=initialization.stream_of(name)
    )
    assert torch.equal(layer.weight, drawn)


@pytest.mark.parametrize(("weights", "factor"), [("kaiming_normal", 1.0), ("scaled_kaiming_normal", 0.5)])
def test_the_weights_are_those_of_the_run_but_for_the_scale_of_its_density(weights: str, factor: float) -> None:
    found = mask_(nn.Sequential(nn.Linear(8, 4)), Multicoated(0.25), weights=weights, seed=3)
    again = mask_(nn.Sequential(nn.Linear(8, 4)), FixedMask(masks(found)), weights=weights, seed=3)
    torch.testing.assert_close(raw_weight(again[0]), factor * raw_weight(found[0]), rtol=1e-6, atol=0)
    assert torch.equal(masks(again)["0.weight"], masks(found)["0.weight"])


def test_masks_that_do_not_fit_are_an_error_that_names_the_weight(finished_run: Path) -> None:
    with pytest.raises(UserError, match=r"of another network: .*features"):
        read_masks(str(finished_run / "checkpoints" / "last.ckpt"), Conv4(in_channels=1, image_size=8))
    with pytest.raises(UserError, match=r"of another network: 0\.weight has shape \(2, 2\) there and \(2, 3\) here"):
        mask_(nn.Sequential(nn.Linear(3, 2)), FixedMask({"0.weight": torch.ones(2, 2, dtype=torch.bool)}))
    with pytest.raises(UserError, match=r"no mask of 0\.weight: add masks, or name these weights in keep_dense"):
        mask_(nn.Sequential(nn.Linear(3, 2)), FixedMask({}))
    with pytest.raises(UserError, match=r"the mask of 0\.weight is torch.float32, but a mask is boolean"):
        mask_(nn.Sequential(nn.Linear(3, 2)), FixedMask({"0.weight": torch.full((2, 3), 0.3)}))


def test_a_path_in_python_is_an_error_that_names_read_masks_and_leaves_the_network_plain() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"pass ls\.FixedMask\(ls\.read_masks\('run\.ckpt', network\)\)"):
        mask_(network, FixedMask("run.ckpt"))
    assert type(network[0]) is nn.Linear
    with pytest.raises(UserError, match=r"nowhere\.ckpt does not exist"):
        read_masks("nowhere.ckpt", network)


def test_a_run_under_a_fixed_mask_resumes_without_the_file_of_the_mask(tmp_path: Path) -> None:
    mask = torch.rand(10, 64) < 0.3

    def module(method: FixedMask) -> SubnetModule:
        return SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), method, optimizer=torch.optim.SGD)

    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(module(FixedMask({"1.weight": mask})), datamodule=Digits())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    of_another = module(FixedMask("gone.ckpt"))
    trainer.test(of_another, datamodule=Digits(), ckpt_path=tmp_path / "run.ckpt", verbose=False)
    assert torch.equal(masks(of_another.network)["1.weight"], mask)
    found = read_masks(str(tmp_path / "run.ckpt"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert torch.equal(found["1.weight"], mask)


def test_states_beside_the_network_do_not_matter(tmp_path: Path) -> None:
    module = SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), EdgePopup(0.5), optimizer=torch.optim.SGD)
    module.loss, module.teacher = nn.CrossEntropyLoss(weight=torch.ones(10)), nn.Linear(2, 2).requires_grad_(False)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    found = read_masks(str(tmp_path / "run.ckpt"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert torch.equal(found["1.weight"], masks(module.network)["1.weight"])


def test_a_checkpoint_of_a_method_from_elsewhere_is_an_error(finished_run: Path, tmp_path: Path) -> None:
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    content["subnet"]["method"] = "Mine"
    torch.save(content, tmp_path / "mine.ckpt")
    with pytest.raises(UserError, match=r"of the method Mine, .*: subnets export writes its masks into a \.subnet"):
        read_masks(str(tmp_path / "mine.ckpt"), Conv2(in_channels=1, image_size=8, norm="batch"))
