#!/usr/bin/env bash
# Run the GPU tests and measurements of this project in stages, the most valuable first.
#
#   OUT=FOLDER bash .gpukit/gpu_run.sh [STAGE...]
#
# To be started in the root of the repository, after prepare.sh was. Stages: device test bench
# passes chunks bag quant memory compiled; without names, all, in this order. Each has a timeout of its own
# within LIMIT (seconds for everything, 550). $OUT gets log.txt, which grows as the stages run,
# results.json, which is written anew after each, and a few pictures and traces.
#
# DRY=1: on a CPU with the small model, a few frames and no profile of the 7B, to test the script.
set -uo pipefail
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
start=$SECONDS
limit=${LIMIT:-550} dry=${DRY:-}
kit=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-runs/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/log.txt
work=$(mktemp -d)
python=${PYTHON:-python3}
site=${SITE:-$work/site} quant=${QUANT_SITE:-$work/quant}
[ $# -gt 0 ] || set -- device test bench passes chunks bag quant memory compiled

say() { printf '[%3ds] %s\n' $((SECONDS - start)) "$*" | tee -a "$log"; }

# What the stages have written so far, in one file; and how each ended.
collect() {
    "$python" - "$work" "$out/results.json" <<'PY'
import json, pathlib, sys
work, goal = map(pathlib.Path, sys.argv[1:])
found = {}
for path in sorted(work.glob('*.json')):
    try:
        found[path.stem] = json.loads(path.read_text())
    except ValueError:
        found[path.stem] = 'unreadable'
ended = work / 'stages.tsv'
if ended.exists():
    found['stages'] = [dict(zip(('stage', 'exit', 'seconds'), line.split('\t')))
                       for line in ended.read_text().splitlines()]
goal.with_suffix('.part').write_text(json.dumps(found, indent=1))
goal.with_suffix('.part').replace(goal)
PY
}

# A command of a stage: its name, its most seconds, the command. Never stops the script.
step() {
    local name=$1 most=$2 left=$((limit - (SECONDS - start) - 5)) begun=$SECONDS code
    shift 2
    if [ $left -lt 15 ]; then say "$name: no time left, left out"; return 0; fi
    [ "$most" -le "$left" ] || most=$left
    say "$name, at most $most s"
    timeout -k 5 "$most" "$@" 2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
    say "$name ended with $code after $((SECONDS - begun)) s"
    printf '%s\t%s\t%s\n' "$name" "$code" $((SECONDS - begun)) >> "$work/stages.tsv"
    collect
}

# Packages that aren't there, into folders of their own: nothing of the machine's is replaced.
unpack() {
    local wheels=$1 folder=$2
    compgen -G "$wheels/*.whl" >/dev/null || { say "no wheels in $wheels"; return 0; }
    [ -d "$folder" ] || "$python" -m pip install -q --no-index --no-deps --no-compile \
        --no-cache-dir --disable-pip-version-check --root-user-action=ignore --target "$folder" \
        "$wheels"/*.whl 2>&1 | tee -a "$log"
}

unpack .whl "$site"
export PYTHONPATH=$site:$PWD${PYTHONPATH:+:$PYTHONPATH}
say "packages are there"

device=cuda bf16=bfloat16 shape=7b frames=1000 repeats=2 n=20
[ -z "$dry" ] || { device=cpu bf16=float32 shape=embedded frames=3 repeats=1 n=2; }
bench=("$python" -m specvla_ros bench --device $device --repeats $repeats)
random=("${bench[@]}" --random-weights --shape $shape --accept-from libero_goal --observations $n)

for stage in "$@"; do
    case $stage in
    device)
        [ -n "$dry" ] || nvidia-smi >> "$log" 2>&1
        step device 60 "$python" "$kit/steps/device.py" --device $device --json "$work/device.json" \
            ${dry:+--small} ;;
    test)
        step test 100 "$python" -m pytest test/decoding/test_cuda.py \
            test/openvla/test_triton_operations.py -v -p no:cacheprovider \
            --tb=short --durations=5 ;;
    bench)
        step bench 130 "${random[@]}" --peer generate --peer generate-sdpa \
            --json "$work/bench.json" --out "$work/bench"
        cp "$work/bench/roofline.png" "$out/" 2>/dev/null ;;
    passes)
        step passes 110 "$python" "$kit/steps/passes.py" --device $device --shape $shape \
            --dtype $bf16 --json "$work/passes.json" --traces "$out" ;;
    chunks)
        step chunks 75 "$python" "$kit/steps/chunks.py" --device $device --shape $shape \
            --dtype $bf16 --actions $n --json "$work/chunks.json" ;;
    bag)
        reference=$kit/reference.json
        # shellcheck disable=SC2086
        step bag 60 "$python" "$kit/steps/bag.py" --device $device --dtypes float32 bfloat16 \
            --most $frames --frames "$work/frames.npz" --json "$work/bag.json" \
            $([ -s "$reference" ] && echo --reference "$reference")
        # The same on this machine's CPU: other versions of packages, or the GPU?
        [ ! -s "$reference" ] || step bag_cpu 30 "$python" "$kit/steps/bag.py" --device cpu \
            --decoders ar --most $frames --reference "$reference" --json "$work/bag_cpu.json"
        if [ -s "$work/frames.npz" ]; then
            step bag_bench 70 "${bench[@]}" --frames "$work/frames.npz" --observations $((3 * n)) \
                --decoder ar --decoder strict --decoder relaxed --decoder history \
                --decoder history_relaxed --decoder jacobi \
                --decoder glance --decoder glance_relaxed --decoder hybrid_relaxed \
                --peer generate-sdpa --json "$work/bag_bench.json" --out "$work/bag_bench"
        fi ;;
    quant)
        unpack .whl/quant "$quant"
        for kind in int4 int8; do
            PYTHONPATH=$quant:$PYTHONPATH step quant_$kind 70 "$python" "$kit/steps/passes.py" \
                --device $device --shape $shape --dtype bfloat16 --quantization $kind --passes-only \
                --json "$work/quant_$kind.json"
        done ;;
    memory)
        step memory 50 "$python" "$kit/steps/memory.py" --device $device --dtype $bf16 \
            --times "${TIMES:-$([ -n "$dry" ] && echo 2 || echo 12)}" --json "$work/memory.json" ;;
    compiled)
        step compiled 150 "${random[@]}" --decoder ar --decoder relaxed --peer generate-compiled \
            --json "$work/compiled.json" --out "$work/compiled" ;;
    *)
        say "no stage $stage" ;;
    esac
done
collect
say 'done'
"$python" "$kit/steps/summary.py" "$out/results.json" 2>&1 | tee "$out/summary.txt"
rm -rf "$work"
