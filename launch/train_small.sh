#!/usr/bin/env bash
# Makes r3p/assets/portrait.npz, the embedded default, from nothing: launch/train_small.sh FOLDER
# Everything lies in FOLDER; an interrupted run goes on where it stopped. The first stage is made for an accelerator and
# 16 processors; on fewer, give it fewer workers (--set data.workers=2 here) and most of a day.
set -euo pipefail
folder=${1:?usage: launch/train_small.sh FOLDER}
cd "$(dirname "$0")/.."

python -m data_pipelines.people --out "$folder/people" --count 2048 --seed 1 --workers "$(nproc)"
python -m r3p.train --config configs/rehearsal.py:small --workdir "$folder/small" --set data.people="$folder/people"
python -m r3p.export --workdir "$folder/small" --out "$folder/small.npz"
python -m r3p.train --config configs/rehearsal.py:finish --workdir "$folder/finish" --set start="$folder/small.npz"
python -m r3p.export --workdir "$folder/finish" --out "$folder/finish.npz"
python -m r3p.train --config configs/rehearsal.py:spread --workdir "$folder/spread" --set start="$folder/finish.npz"
python -m r3p.export --workdir "$folder/spread" --out "$folder/portrait.npz" --halfway
python -m r3p.evaluate.held_out --out "$folder/held_out" --weights "$folder/portrait.npz" --record
