#!/bin/sh
# The suppression terms over 3 targets x 3 seeds, in a clone of its own: prints where the summaries are.
# Run from the checkout, with the environment that `make setup` makes: sh data/compared/terms.sh
set -eu
work=$(mktemp -d)
git clone -q . "$work/clone"
cd "$work/clone"
set_to() { # KEY VALUE: within its section, two spaces deep
    sed -i "s/^  $1: [^#]*/  $1: $2 /" params.yaml
}
sed -i 's/^seeds: .*/seeds: [0, 1, 2]/' params.yaml
for group in residual relearning quantise minimality cross baselines; do set_to "$group" false; done
set_to methods '[random]'
for term in uniform prior unlikelihood level; do
    set_to suppression "$term"
    python -m knowsub.repro
    cp data/report/summary.json "$work/$term.json"
done
echo "$work"
