#!/usr/bin/env bash
# The second experiment of data/results/PLAN.md on one GPU: gate 1 for every seed, then the rounds where all of them pass.
#
#   experiments/h200.sh [FOLDER]            rows and held-back pairs: PLAN.md says how `sre split` prepares them
#   SEEDS=0 LIMIT_S=600 experiments/h200.sh    one seed, ten minutes; what would end later is stopped and resumes
#   FORCE=1 experiments/h200.sh             the rounds run even where the gate isn't passed
#   SET="data.train_pairwise=300 data.train_pointwise=400" experiments/h200.sh    other settings
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
out=${1:-runs/second} python=${PYTHON:-python} preset=${PRESET:-real-judgments} limit=${LIMIT_S:-720}
pairs=${PAIRS:-runs/real-judgments/data/dev/pairwise.jsonl} rows=${ROWS:-120} context=${CONTEXT:-1536}
read -ra seeds <<<"${SEEDS:-0 1 2}"
read -ra variants <<<"${VARIANTS:-sft best best-of-n dpo-alone}"
overrides=(--set start=mixed)
for setting in ${SET:-}; do overrides+=(--set "$setting"); done
mkdir -p "$out/gate"

within() { # COMMAND...: stop it when the time for all steps is over
  local left=$((limit - SECONDS))
  timeout "$((left > 1 ? left : 1))" "$@"
}

gate() { # SEED: train J_SFT, judge the held-back pairs in both orders, write gate/seed-SEED.md
  local run=$out/seed-$1 judged=$out/gate/seed-$1
  within "$python" -m recipe.cli run "$preset" --set "seed=$1" "${overrides[@]}" --until sft-mixed --run-dir "$run" &&
    within "$python" -m recipe.cli evaluate "$pairs" --model "$run/sft-mixed/adapter" --limit "$rows" --no-constrain \
      --max-tokens 256 --context "$context" -o "$judged" &&
    "$python" -m experiments.gate "$judged/figures.json" >"$judged.md"
}

declare -A jobs
for seed in "${seeds[@]}"; do # side by side: one such model alone doesn't fill the card
  gate "$seed" >"$out/gate/seed-$seed.log" 2>&1 &
  jobs[$seed]=$!
done
passed=yes
for seed in "${seeds[@]}"; do
  if wait "${jobs[$seed]}"; then verdict=passed; else verdict="not passed" passed=no; fi
  echo "== gate 1, seed $seed: $verdict (log: $out/gate/seed-$seed.log)"
  cat "$out/gate/seed-$seed.md" 2>/dev/null
done
if [[ $passed == no && -z ${FORCE:-} ]]; then
  echo "No DPO on pairs before the gate is passed; FORCE=1 runs it all the same."
  exit 1
fi
within "$python" -m experiments "$preset" "${variants[@]}" "${overrides[@]}" "${seeds[@]/#/--seeds=}" --run-dir "$out"
