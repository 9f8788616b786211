#!/usr/bin/env bash
# All that needs a GPU, in parts of one to three minutes, eight in all; a part that is done is left out.
#
#   benchmarks/gpu.sh [FOLDER] [PART...]
#
# Parts, in this order: tests (correctness), small and large (a step against the straightforward loop and
# against finetuning), cost (a step as models grow), eight (ten steps at the shape of an 8B model). FOLDER,
# benchmarks/gpu unless said, gets a log per part, what the benchmarks wrote, and report.txt. DEVICE=cpu
# SHAPE=tiny tries the script itself where there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-benchmarks/gpu}
shift || true
device=${DEVICE:-cuda}
shape=${SHAPE:-}
mkdir -p "$folder"

part() { # part NAME SECONDS COMMAND...: run it unless it is done; a part that takes too long is cut off
    local name=$1 limit=$2 begin=$SECONDS status=0
    shift 2
    [ -e "$folder/$name.done" ] && return
    timeout "$limit" "$@" >"$folder/$name.log" 2>&1 || status=$?
    [ "$status" = 0 ] && touch "$folder/$name.done"
    echo "$name: status $status, $((SECONDS - begin)) s" | tee -a "$folder/parts.txt"
}

for name in ${@:-tests small large cost eight}; do
    case $name in
    tests) part tests 150 python -m pytest -q -m gpu -p no:cacheprovider ;;
    small) part small 90 python -m benchmarks --device "$device" --rounds 20 --shape "${shape:-small}" ;;
    large) part large 100 python -m benchmarks --device "$device" --rounds 10 --shape "${shape:-large}" ;;
    cost) part cost 90 python -m benchmarks.cost --device "$device" --measure small medium large xl ;;
    eight) part eight 90 python -m benchmarks.large_model --device "$device" --shape "${shape:-llama-3.1-8b}" ;;
    *) echo "no such part: $name; there are tests, small, large, cost, eight" >&2 && exit 2 ;;
    esac
done
cp benchmarks/results.json benchmarks/cost.json docs/cost.md "$folder"/ 2>/dev/null
{
    date -u +%F
    cat "$folder/parts.txt" 2>/dev/null
    for log in "$folder"/*.log; do
        printf '\n== %s\n' "$(basename "$log" .log)"
        tail -n 40 "$log"
    done
} >"$folder/report.txt"
echo "$folder/report.txt"
