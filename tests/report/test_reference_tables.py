from __future__ import annotations

from dataclasses import replace

from knowsub.report.reference_tables import reference_tables


def table(title, results, analysis=None):
    return next(each for each in reference_tables(results, analysis or {}) if each.title == title)


def test_gates_and_changes_are_shown_mask_by_mask(results):
    gates = {"p_le_0.01": 0.9, "p_le_0.2": 0.97, "undecided": 0.001, "p_ge_0.8": 0.02,
             "p_ge_0.99": 0.01}  # fmt: skip
    target = {"rank": [40.25, -1.0, 1200.0], "log_probability": [-7.5, -12.0, 0.25]}
    result = replace(results[0], training={"gates": gates}, changes={"target": target})
    assert table("Probabilities of the gates", [result]).rows == [
        [result.name, "90.00%", "97.00%", "0.10%", "2.00%", "1.00%"]
    ]
    changed = table("Changes of rank and probability", [result])
    assert changed.rows == [
        [result.name, "target, trained prompts",
         "+40.2", "-1.0", "+1,200.0", "-7.500", "-12.000", "+0.250"]
    ]  # fmt: skip
    assert len(changed.columns) == len(changed.rows[0])


def test_heads_are_in_order_with_the_range_over_masks():
    def mask(seed, density):
        groups = [
            {"name": "block 2 head 10 q", "density": density},
            {"name": "block 2 head 9 q", "density": 2 * density},
            {"name": "block 2 head 9 output", "density": 0.0},
            {"name": "block 2 kv head 0 k", "density": 0.5},
        ]
        return {"target": "a", "seed": seed, "groupings": {"head part": {"groups": groups}},
                "neurons": []}  # fmt: skip

    masks = {"masks": [mask(0, 0.01), mask(1, 0.03)]}
    assert table("Attention heads", [], {"structure": masks}).rows == [
        ["block 2 head 9", "4.00% (2.00% to 6.00%)", "–", "–", "0.00% (0.00% to 0.00%)"],
        ["block 2 head 10", "2.00% (1.00% to 3.00%)", "–", "–", "–"],
        ["block 2 kv head 0", "–", "50.00% (50.00% to 50.00%)", "–", "–"],
    ]


def test_dead_neurons_are_summed_over_blocks():
    def row(matrix, direction, dead, neurons):
        return {"matrix": matrix, "direction": direction, "dead": dead, "neurons": neurons}

    neurons = [
        row("blocks.2.mlp_in", "output", 3, 512),
        row("blocks.3.mlp_in", "output", 4, 512),
        row("blocks.3.mlp_in", "input", 1, 128),
        row("blocks.3.q", "input", 0, 128),
    ]
    masks = [{"target": "a", "seed": 0, "groupings": {}, "neurons": neurons}]
    dead = table("Dead neurons", [], {"structure": {"masks": masks}})
    assert dead.columns == ["mask", "mlp_in, read / written", "q, read / written"]
    assert dead.rows == [["a-0", "1 of 128 / 7 of 1,024", "0 of 128 / 0 of 0"]]


def test_tables_without_values_are_left_out_and_the_page_has_the_others(results, report):
    bare = replace(results[0], training={}, changes={})
    assert not list(reference_tables([bare], {}))
    page = (report / "report.html").read_text()
    for title in ("Probabilities of the gates", "Attention heads", "Dead neurons",
                  "Changes of rank and probability"):  # fmt: skip
        assert f"<h3>{title}</h3>" in page
