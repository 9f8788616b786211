"""A remaining model in MLflow, to be loaded by its address and registered by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knowsub.experiment import sanitize
from knowsub.tracking import Store

MODEL = "knowsub.model"


def log_model(
    store: Store, run_id: str, name: str, parts: Mapping[str, Any], registered: str
) -> str:
    """Store a model with a run by MLflow's transformers flavour, unless it is there.

    Args:
        store: The experiment's runs.
        run_id: The run; it has ended afterwards.
        name: Name of the model, such as that of the mask removed from it.
        parts: Its `model` and its `tokenizer`.
        registered: Name to register it under as a new version; empty for none.

    Returns:
        Address that `mlflow.transformers.load_model` takes.
    """
    tag = f"{MODEL}.{sanitize(name)}"
    if known := store.client.get_run(run_id).data.tags.get(tag):
        return str(known)
    import mlflow

    mlflow.set_tracking_uri(store.begun.uri)
    with mlflow.start_run(run_id=run_id):
        address = mlflow.transformers.log_model(
            dict(parts),
            name=f"without-{name}".replace(".", "_"),
            task="text-generation",
            registered_model_name=registered or None,
            pip_requirements=["torch", "transformers"],
        ).model_uri
    store.tags(run_id, {tag: address})
    return str(address)
