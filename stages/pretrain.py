"""The language model: the embedded one, trained here, or a pretrained one, found and pinned.

Reads: data/prepare/{facts.jsonl, templates.json}, data/prepare/text/{train,validation}.txt
Writes: data/pretrain/model.json, curve.csv, and model/ if embedded, from a GGUF file or in nf4
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device
from knowsub.provenance import main_root

DATA, OUT = Path("data/prepare"), Path("data/pretrain")


def main() -> str:
    """Train or find the model, and write down exactly which weights it has."""
    params = load_params()
    device = torch_device(params.machine)
    from tqdm import tqdm

    from knowsub.embedded.model import train_embedded, training_statements
    from knowsub.kg.facts import read_facts
    from knowsub.kg.templates import load_templates
    from knowsub.lm.gguf import find_pretrained
    from knowsub.lm.load import ModelFiles, load_model, manifest, write_manifest
    from knowsub.tracking import stage_run

    options, forms, folder = params.pretrain, params.verbalize, OUT / "model"
    OUT.mkdir(parents=True, exist_ok=True)
    curve = (OUT / "curve.csv").open("w", encoding="utf-8")
    with stage_run("pretrain", params) as run, curve, tqdm(total=options.steps) as bar:
        curve.write("step,statements,text\n")

        def log(step: int, losses: Mapping[str, float]) -> None:
            bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()}, refresh=False)
            bar.update()
            curve.write(f"{step},{losses['statements']:.6g},{losses['text']:.6g}\n")
            run.metrics(losses, step=step)

        if options.model == "embedded":
            statements = training_statements(
                read_facts(DATA / "facts.jsonl"), load_templates(DATA / "templates.json"), forms
            )
            _, metrics = train_embedded(statements, DATA / "text", folder, options, log)
            source, taught = ModelFiles(folder, "model", ""), {"metrics": metrics}
        else:
            source, taught = find_pretrained(*options.source, folder, main_root())
        opened = load_model(source.folder, device, options.dtype, options.chat)
        pinned = manifest(*opened, source.path, source.revision) | taught
        run.metrics(pinned.get("metrics", {}))
        run.artifact(write_manifest(OUT / "model.json", pinned))
    return f"{pinned['architecture']}, {pinned['parameters']:,} parameters"


if __name__ == "__main__":
    stage_main(main)
