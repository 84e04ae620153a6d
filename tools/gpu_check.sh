#!/usr/bin/env bash
# What only a GPU can prove, in ten minutes on one card. Everything goes into one folder; report.md sums it up.
#
#   tools/gpu_check.sh [FOLDER]                  needs the extra `gpu` (pip install -e '.[gpu,quickstart]')
#   SHAPE=qwen3-4b MEMORY_GB=12 tools/gpu_check.sh    another model, on another card's memory
#   LIMIT_S=300 tools/gpu_check.sh               seconds for all steps; what would end later is stopped
#   DEVICE=cpu tools/gpu_check.sh                the same steps on a processor, where SHAPE has two layers
set -uo pipefail
mkdir -p "${1:-gpu-check}"
out=$(cd "${1:-gpu-check}" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python} model=${MODEL:-smollm2-135m} limit=${LIMIT_S:-600} device=${DEVICE:-cuda}
options=(--json --model "$model")
[[ $device == cpu ]] && options+=(--cpu)
smoke=("$python" -m benchmarks.smoke "${options[@]}")
shape=("$python" -m benchmarks.shape "${SHAPE:-llama3.1-8b}" "${options[@]}" --memory-gb "${MEMORY_GB:-24}")
shape+=(${VOCAB:+--vocab "$VOCAB"})
rm -f "$out"/*.json "$out"/*.jsonl "$out/steps.txt"

run() { # NAME FILE COMMAND...: its output goes to FILE, the rest to NAME.log
  local name=$1 file=$2 began=$SECONDS left=$((limit - SECONDS)) code=0
  shift 2
  echo "== $name" >&2
  timeout "$((left > 1 ? left : 1))" "$@" >"$out/$file" 2>"$out/$name.log" || code=$?
  echo "$name $code $((SECONDS - began))" >>"$out/steps.txt"
}

run doctor doctor.txt "$python" -m recipe.cli doctor
run speed speed.json "$python" tools/gpu_report.py speed "$device"
run smoke smoke.json "${smoke[@]}"
if "$python" -c 'import sys, llama_cpp.llama_cpp as c; sys.exit(not c.llama_supports_gpu_offload())'; then
  gguf=$("$python" -c 'from recipe.training.seed import embedded_gguf; print(embedded_gguf())')
  for layers in 0 -1; do
    run "llama.cpp:$layers" "judged:$layers.jsonl" "$python" -m recipe.cli judge seed-data -o - --model "$gguf" \
      --limit 40 --gpu-layers "$layers"
  done
fi
run shape shape.json "${shape[@]}"
"$python" tools/gpu_report.py report "$out" | tee "$out/report.md"
exit "${PIPESTATUS[0]}"
