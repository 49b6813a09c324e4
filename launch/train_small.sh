#!/usr/bin/env bash
# Makes r3p/assets/portrait.npz, the embedded default, from nothing: launch/train_small.sh FOLDER
# A few hours on two CPU cores. Everything lies in FOLDER; an interrupted run goes on where it stopped.
set -euo pipefail
folder=${1:?usage: launch/train_small.sh FOLDER}
cd "$(dirname "$0")/.."
train() { python -m r3p.train "$@"; }

python -m data_pipelines.people --out "$folder/people" --count 3072 --seed 1 --workers 2
train --config configs/portrait.py:small --workdir "$folder/portrait" --set data.folder="$folder/people"
python -m r3p.export --workdir "$folder/portrait" --out "$folder/portrait.npz"
# Coarse first: the perceptual term joins when portraits are recognisable, and grows.
rehearse=(--config configs/rehearsal.py:small --workdir "$folder/rehearsal" --set start="$folder/portrait.npz")
train "${rehearse[@]}" --set steps=1025 --set schedule_steps=6000 --set loss.lpips=0
train "${rehearse[@]}" --set steps=4840 --set schedule_steps=5200 --set loss.lpips=0.3
train "${rehearse[@]}"
python -m r3p.export --workdir "$folder/rehearsal" --out "$folder/small.npz" --people 64
