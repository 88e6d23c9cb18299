#!/usr/bin/env bash
# Every figure that docs/benchmarks.md still owes, on the day a GPU is there, most valuable first, in pieces of under ten minutes:
#   bash launch/gpu.sh [--output DIR] [PIECE ...]      all pieces in turn, where none is named
#   bash launch/gpu.sh --minutes=9 [PIECE ...]         as many as begin in so long, the last of them ended a minute after it
#   bash launch/gpu.sh --list                          the pieces
#   bash launch/gpu.sh --cpu [PIECE ...]               the same pieces at the sizes of a CPU, as also happens where there is no GPU
# Pieces resume: what is measured is in DIR/bench.json and is passed over, so run a piece again until it says that nothing is left.
# Needs python3 (or PYTHON=...) with jax, flax, optax, einops, chex and numpy.  DIR (runs/gpu) stays small enough to copy.
set -euo pipefail
cd "$(dirname "$0")/.."

PIECES=(smoke ceilings attention sample train profile compile attention_more train_more blocks small parity reference)
about() {  # about PIECE
  case $1 in
    smoke) echo "devices and versions; every attention backend and a small training step are right" ;;
    ceilings) echo "matrix products and memory at their best: a minute, and all shares are of these" ;;
    attention) echo "attention backends at the lengths of 480p and 720p, padded as in training, forward and with backward" ;;
    sample) echo "sampling step of the 2B model at each resolution" ;;
    train) echo "training step of the 2B model at 480p, dense and routed, attention saved and attention repeated" ;;
    compile) echo "compile times, cold and cached" ;;
    attention_more) echo "attention at all lengths, 2k to 228k tokens, by groups of heads, without padding, in shard_map" ;;
    train_more) echo "training step of the 2B model at every resolution; dense, routed, aligned" ;;
    blocks) echo "blocks of the 2B model at 720p and 480p" ;;
    small) echo "training steps of motif_b and motif_s" ;;
    profile) echo "a trace of one step of the 2B model at 480p, and its report" ;;
    parity) echo "live parity with torch, matrix products at the highest precision; needs pytest, torch, diffusers, ml_collections" ;;
    reference) echo "diffusers' torch model on this device; needs torch and diffusers" ;;
    *) echo "error: no piece is called '$1'; pieces: ${PIECES[*]}" >&2; return 2 ;;
  esac
}

OUTPUT=runs/gpu CPU='' MINUTES=9999 chosen=()
while [ $# -gt 0 ]; do
  case $1 in
    --cpu) CPU=1 ;;
    --output) OUTPUT=${2:?--output wants a folder}; shift ;;
    --output=*) OUTPUT=${1#*=} ;;
    --minutes=*) MINUTES=${1#*=} ;;
    --list) for piece in "${PIECES[@]}"; do printf '%-15s %s\n' "$piece" "$(about "$piece")"; done; exit 0 ;;
    *) about "$1" >/dev/null; chosen+=("$1") ;;
  esac
  shift
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${PIECES[@]}")

if [ -z "${PYTHON:-}" ]; then PYTHON=python3; [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python; fi
. launch/gpu_env.sh
[ -z "$CPU" ] || export JAX_PLATFORMS=cpu
platform=$("$PYTHON" -c 'import jax; print(jax.devices()[0].platform)')
if [ "$platform" != gpu ]; then
  [ -n "$CPU" ] || echo "No GPU here (jax finds: $platform): the same pieces follow at the sizes of a CPU, which say nothing about a GPU."
  CPU=1 JAX_PLATFORMS=cpu; export JAX_PLATFORMS
fi
mkdir -p "$OUTPUT"

# A piece ends by itself: no case begins after LIMIT seconds, and what hangs is ended after ten minutes; both sooner where the
# time that was given is up.
left() { echo $((60 * MINUTES - SECONDS)); }
at_most() { [ "$(left)" -lt "$1" ] && left || echo "$1"; }  # at_most SECONDS
ended() {  # ended COMMAND ...
  local status=0 seconds=$(($(at_most 530) + 60))
  timeout "$seconds" "$@" || status=$?
  [ "$status" -ne 124 ] || echo "Ended after $seconds s, in the middle of what it did: run the same command again."
  return "$status"
}
bench() { ended "$PYTHON" -m launch.bench --output="$OUTPUT/bench.json" --limit="$(at_most "${LIMIT:-420}")" "$@"; }
here() { [ -n "$CPU" ] && echo "$2" || echo "$1"; }  # here ON_A_GPU ON_A_CPU
has() { "$PYTHON" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))" "$@"; }

of_training() {  # of_training BACKEND ...: with padding, every head, at the lengths of 480p and 720p with 512 tokens of text
  local backend length names=()
  for backend; do for length in 48872 114592; do names+=("attention/$backend/$length/12 heads/padded/forward"); done; done
  (IFS=,; echo "${names[*]}")
}

run() {  # run PIECE
  case $1 in
    smoke)
      "$PYTHON" -c 'import jax, jaxlib, platform; print("python", platform.python_version(), "jax", jax.__version__, "jaxlib",
                    jaxlib.__version__, [str(d.device_kind) for d in jax.devices()])'
      bench --only=check ;;
    attention) bench --only="$(here "$(of_training cudnn tokamax chunked)" attention/chunked)" ;;
    attention_more) bench --only=attention ;;
    sample) bench --only="sample/$(here motif_2b smoke)" ;;
    train)  # under both policies of rematerialisation that launch.plan weighs
      local steps status=0; steps=$(here train/motif_2b/dense/121x480x832,train/motif_2b/routed/121x480x832 train/smoke/dense)
      bench --only="$steps" --config.model.remat=attention || status=$?
      bench --only="$steps" || status=$?
      return "$status" ;;
    train_more) bench --only="train/$(here motif_2b smoke)" ;;
    small) bench --only="$(here train/motif_b,train/motif_s train/motif_s/dense)" ;;
    profile)  # the trace itself may be large: the report is what is kept
      local folder status=0; folder=$(mktemp -d)
      # shellcheck disable=SC2046
      ended "$PYTHON" -m launch.profile --workdir="$folder" $(here \
        "--config=configs/motif_2b.py --bucket=121x480x832 --steps=2 --config.model.attention=cudnn --config.data.batch_size=1" \
        "--config=configs/smoke.py --bucket=9x32x32 --steps=2 --config.data.batch_size=4") \
        --config.mesh.data=1 --config.mesh.fsdp=1 || status=$?
      find "$folder" -name 'report.*' -exec cp {} "$OUTPUT" \;
      rm -rf "$folder"
      return "$status" ;;
    parity)
      if ! has pytest torch diffusers ml_collections; then
        echo "Not run: this image lacks one of pytest, torch, diffusers and ml_collections (requirements-test.txt)."
      else
        JAX_PLATFORMS=$(here cuda,cpu cpu) JAX_DEFAULT_MATMUL_PRECISION=highest ended "$PYTHON" -m pytest -q tests/parity
      fi ;;
    reference)
      if ! has torch diffusers; then
        echo "Not run: this image lacks torch or diffusers (requirements-test.txt)."
      else
        bench --only=reference
      fi ;;
    *) bench --only="$1" ;;
  esac
}

failed=()
for piece in "${chosen[@]}"; do
  if [ "$(left)" -lt 30 ]; then
    echo; echo "== the $MINUTES minutes are up before $piece: run the same command again"
    break
  fi
  echo; echo "== $piece: $(about "$piece")"
  run "$piece" 2>&1 | tee "$OUTPUT/$piece.txt" || failed+=("$piece")
done
echo; echo "== results in $OUTPUT ($(du -sh "$OUTPUT" | cut -f1)): $(ls "$OUTPUT" | tr '\n' ' ')"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
