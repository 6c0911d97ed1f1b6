#!/usr/bin/env bash
# From your own weights to two bundles: one in a box, and one that is locked beside it.
#
#   examples/wrap_and_lock.sh cifar_resnet20 teacher.safetensors path/to/images zoo [OPTION …]
#
# Options go to both trainings (`--epochs 8`). Stopped with Ctrl-C, the same command goes on.
set -euo pipefail
arch=$1 weights=$2 images=$3 zoo=$4
shift 4
sdb wrap --arch "$arch" --weights "$weights" --data "$images" --out "$zoo/boxed" "$@"
sdb lock --arch "$arch" --weights "$weights" --data "$images" --out "$zoo/locked" "$@"
export SDB_MODELS_DIR=$zoo
sdb models verify boxed
sdb models verify locked
sdb models unlock-key locked --out "$zoo/locked.key" # to be handed to whom the locked model is for
sdb doctor
