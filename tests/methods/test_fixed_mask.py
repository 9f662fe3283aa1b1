"""FixedMask: masks from Python, from checkpoints, and shuffled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_subnets import FixedMask, UserError, mask_, masked_layers, read_masks
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking import initialization
from lightning_subnets.networks import Conv2, Conv4
from lightning_subnets.training.module import SubnetModule


def test_masks_can_be_given_in_python() -> None:
    masks = {"0": torch.tensor([[True, False], [False, True]]), "1": torch.tensor([[False, True]])}
    network = mask_(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), FixedMask(masks))
    assert {name: layer.mask().tolist() for name, layer in masked_layers(network)} == {
        name: mask.tolist() for name, mask in masks.items()
    }


def test_weights_are_drawn_from_the_seed_and_distribution_of_mask_(finished_run: Path) -> None:
    network = Conv2(in_channels=1, image_size=8)
    found = read_masks(str(finished_run / "checkpoints" / "last.ckpt"), network)
    mask_(network, FixedMask(found), weights="kaiming_uniform", seed=7)
    name, layer = masked_layers(network)[0]
    assert torch.equal(
        layer.weight, initialization.draw_weights("kaiming_uniform", layer.weight.shape, seed=7, layer=name)
    )


def test_a_shuffled_mask_is_a_function_of_the_seed(finished_run: Path) -> None:
    found = read_masks(str(finished_run / "checkpoints" / "last.ckpt"), Conv2(in_channels=1, image_size=8))
    first, same, other = (
        [
            layer.mask()
            for _, layer in masked_layers(
                mask_(Conv2(in_channels=1, image_size=8), FixedMask(found, shuffle=True), seed=seed)
            )
        ]
        for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))


def test_masks_of_another_network_are_an_error_that_names_the_layer(finished_run: Path) -> None:
    with pytest.raises(UserError, match=r"of another network: .*features"):
        read_masks(str(finished_run / "checkpoints" / "last.ckpt"), Conv4(in_channels=1, image_size=8))
    with pytest.raises(UserError, match=r"of another network: 0 has shape \(2, 2\) there and \(2, 3\) here"):
        mask_(nn.Sequential(nn.Linear(3, 2)), FixedMask({"0": torch.ones(2, 2, dtype=torch.bool)}))
    with pytest.raises(UserError, match=r"of another network: 0 has shape none there and \(2, 3\) here"):
        mask_(nn.Sequential(nn.Linear(3, 2)), FixedMask({}))


def test_a_path_in_python_is_an_error_that_names_read_masks_and_leaves_the_network_plain() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"pass ls\.FixedMask\(ls\.read_masks\('run\.ckpt', network\)\)"):
        mask_(network, FixedMask("run.ckpt"))
    assert type(network[0]) is nn.Linear
    with pytest.raises(UserError, match=r"nowhere\.ckpt does not exist"):
        read_masks("nowhere.ckpt", network)


def test_masks_of_numbers_are_an_error() -> None:
    with pytest.raises(UserError, match=r"the mask of 0 is of torch.float32, and a mask is boolean"):
        mask_(nn.Sequential(nn.Linear(3, 2)), FixedMask({"0": torch.full((2, 3), 0.3)}))


def test_a_run_under_a_fixed_mask_resumes_without_the_file_of_the_mask(tmp_path: Path) -> None:
    masks = {"1": torch.rand(10, 64) < 0.3}

    def module(method: FixedMask) -> SubnetModule:
        return SubnetModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), method, optimizer=torch.optim.SGD)

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(module(FixedMask(masks)), datamodule=Digits())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    of_another = module(FixedMask("gone.ckpt"))
    trainer.test(of_another, datamodule=Digits(), ckpt_path=tmp_path / "run.ckpt", verbose=False)
    assert torch.equal(masked_layers(of_another.network)[0][1].mask(), masks["1"])
    found = read_masks(str(tmp_path / "run.ckpt"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert torch.equal(found["1"], masks["1"])


def test_a_checkpoint_of_a_method_from_elsewhere_is_an_error(finished_run: Path, tmp_path: Path) -> None:
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    content["subnet"]["method"] = "Mine"
    torch.save(content, tmp_path / "mine.ckpt")
    with pytest.raises(UserError, match="of the method Mine, which is not one of"):
        read_masks(str(tmp_path / "mine.ckpt"), Conv2(in_channels=1, image_size=8))
