#!/usr/bin/env bash
# Builds hopper_matmul where needed and runs it whole: the probe, the checks, the times. An instance whose kernel
# fails or hangs ends its process and is left out from there on.
#
#   hopper_matmul.sh [OUT [SECONDS [PROGRAM]]]     writes OUT (hopper_matmul.jsonl) and prints a summary
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-hopper_matmul.jsonl}
budget=${2:-60}
program=${3:-}
if [ -z "$program" ]; then
  program=$(mktemp -d)/hopper_matmul
  nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -split-compile=0 -o "$program" "$here/hopper_matmul.cu" ||
    exit 1
fi
SECONDS=0
timeout 25 "$program" --probe >"$out"
probe=$?
[ $probe -eq 0 ] || echo "{\"row\": \"died\", \"name\": \"probe\", \"status\": $probe}" >>"$out"

from=0
skip=()
for _ in $(seq 40); do
  left=$((budget - SECONDS))
  [ $left -gt 0 ] || break
  timeout $((left + 5)) "$program" --seconds $left --from $from "${skip[@]}" >>"$out"
  status=$?
  [ $status -ne 0 ] || break
  read -r _ _ index name < <(grep '^# begin' "$out" | tail -n 1) || break
  [ -n "${index:-}" ] && [ "$index" -ge "$from" ] || break
  echo "{\"row\": \"died\", \"name\": \"$name\", \"item\": $index, \"status\": $status}" >>"$out"
  from=$((index + 1))
  skip+=(--skip "$name")
done

sed -i '/^# begin/d' "$out"
echo "== probe, failed checks, errors"
grep -E '"row": "(probe|error|hang|died)"|"FAIL"' "$out" | cut -c1-330 | head -n 60
echo "== accuracy"
sed -nE 's/.*"row": "accuracy", "name": "([^"]*)".*"k": ([0-9]*), "error": "([^"]*)".*"ratio": "([^"]*)".*/\1 k \2 error \3 of float32 \4/p' "$out"
echo "== times (m n k us tflops)"
sed -nE 's/.*"row": "time", "name": "([^"]*)", "m": ([0-9]*), "n": ([0-9]*), "k": ([0-9]*), "us": ([0-9.]*),.*"tflops": ([0-9.]*).*/\1 \2 \3 \4 \5 \6/p' "$out"
grep '"row": "split"' "$out"
tail -n 1 "$out"
echo "checks: $(grep -c '"PASS"' "$out") passed, $(grep -c '"FAIL"' "$out") failed, $SECONDS s"
