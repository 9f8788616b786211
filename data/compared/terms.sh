#!/bin/sh
# Run the suppression terms over 3 targets x 3 seeds in a clone, and print the folder of their summaries.
# Run from the checkout, with the environment that `make setup` makes: sh data/compared/terms.sh
set -eu
work=$(mktemp -d)
git clone -q . "$work/clone"
cd "$work/clone"
set_to() { # KEY VALUE: within its section, two spaces deep
    sed -i "s/^  $1: [^#]*/  $1: $2 /" params.yaml
}
sed -i 's/^seeds: .*/seeds: [0, 1, 2]/' params.yaml
for group in logit_lens relearning quantization minimality cross_target baselines; do set_to "$group" false; done
set_to methods '[random]'
for term in uniform prior unlikelihood zscore_label; do
    set_to suppression "$term"
    python -m knowsub.repro
    cp data/report/summary.json "$work/$term.json"
done
echo "$work"
