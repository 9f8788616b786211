"""Compare a registered model with the model and the mask it came from; run in the clone.

python loaded_model.py <registered name>
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch

from knowsub.architectures import maskable_matrices
from knowsub.lm.load import open_model
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import load_mask

mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow/mlflow.db")
address = f"models:/{sys.argv[1]}/1"
loaded = mlflow.transformers.load_model(address, return_type="components")
model, tokenizer = open_model(Path("data/pretrain/model.json"))
mask = load_mask(Path("data/train/building.n.01-0/mask.safetensors"))
prompt = tokenizer("A tavern is a kind of", return_tensors="pt").input_ids
original = {name: own.clone() for name, own in model.state_dict().items()}
with torch.no_grad(), ablated(model, maskable_matrices(model), mask):
    expected = model(prompt).logits
    remaining = {name: own.clone() for name, own in model.state_dict().items()}
with torch.no_grad():
    found = loaded["model"](
        loaded["tokenizer"]("A tavern is a kind of", return_tensors="pt").input_ids
    )
weights = loaded["model"].state_dict()
assert weights.keys() == remaining.keys()
assert all(torch.equal(own, remaining[name]) for name, own in weights.items())
assert not all(torch.equal(own, original[name]) for name, own in weights.items())
# how a product is rounded may depend on where in memory its operands lie
torch.testing.assert_close(found.logits, expected)
sys.stdout.write(f"{address}: the same weights, bit for bit\n")
