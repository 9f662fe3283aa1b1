"""What a paper prints for the configs that are shipped."""

from __future__ import annotations

# Top-1 on ImageNet in per cent, by config: Ramanujan et al. 2020, Table 2; each after so many epochs.
TOP1 = {
    "rn50_kaiming": 61.71,
    "rn101_kaiming": 66.15,
    "wrn50_kaiming": 67.95,
    "rn50_signed": 68.6,
    "rn101_signed": 72.3,
    "wrn50_signed": 73.3,
    "rn34_dense": 73.3,
    "rn50_dense": 76.1,
    "wrn50_dense": 78.1,
}
EPOCHS = 100
SOURCE = "Ramanujan et al. 2020, Table 2"
