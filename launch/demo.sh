#!/usr/bin/env bash
# The main job, small, on CPU: renders captioned clips, encodes them, trains a Motif-Video with routing and alignment on, is
# interrupted and resumes from its checkpoint, samples videos from prompts, and scores combinations it never saw.
# About ten minutes on 2 cores, after installation.  SEED=1 bash launch/demo.sh makes another one.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh
setup "${PYTHON:-python3}" .venv requirements.txt

SEED=${SEED:-0}
COUNT=${COUNT:-3000}
RUN=${RUN:-runs/demo-$SEED}
export JAX_PLATFORMS=cpu
export JAX_COMPILATION_CACHE_DIR=$PWD/.cache/xla JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1  # the resumed run compiles nothing

phase() { echo; echo "== $* (after $SECONDS s)"; }
TRAIN=("$RUN_PYTHON" -m launch.train --config=configs/smoke.py --config.seed="$SEED" --config.data.path="$RUN/dataset"
       --workdir="$RUN/train")
finished() { ls "$RUN/train/checkpoints" 2>/dev/null | grep -qx '[0-9][0-9]*'; }  # one that is being written has a longer name

SECONDS=0
rm -rf "$RUN"
phase "rendering $COUNT captioned clips"
"$RUN_PYTHON" -m launch.render --output="$RUN/clips" --count="$COUNT" --seed="$SEED"
phase "encoding them"
"$RUN_PYTHON" -m launch.encode --config=configs/smoke.py --source="$RUN/clips" --output="$RUN/dataset"

phase "training, until it is interrupted after its first checkpoint"
"${TRAIN[@]}" &  # the program itself, and no shell around it, so that it is the one that gets the signal
trainer=$!
trap 'kill "$trainer" 2>/dev/null || true' EXIT
until finished; do
  kill -0 "$trainer" || { wait "$trainer"; exit 1; }
  sleep 1
done
kill -TERM "$trainer"
wait "$trainer" || [ $? -eq 75 ]  # an interrupted run saves where it is, and says so
trap - EXIT
phase "resuming from that checkpoint"
"${TRAIN[@]}"

phase "sampling"
"$RUN_PYTHON" -m launch.sample --checkpoint="$RUN/train" --output="$RUN/samples" --seed="$SEED" \
  --prompt="A large red square moves left on a white background." \
  --prompt="A large yellow cross moves down on a teal background." \
  --prompt="A large magenta ring stays still on a black background."
phase "scoring 256 prompts with combinations that training never saw"
"$RUN_PYTHON" -m launch.judge --checkpoint="$RUN/train" --count=256 --seed="$SEED" --output="$RUN/judged"

phase "done"
echo "videos:         $(ls "$RUN"/samples/*.mp4 | head -1)"
echo "contact sheets: $RUN/samples/contact_sheet.png  $RUN/judged/contact_sheet.png"
echo "scores:         $RUN/judged/scores.json"
echo "curves:         .venv/bin/tensorboard --logdir=$RUN/train"
