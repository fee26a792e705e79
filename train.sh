#!/usr/bin/env bash
# Installs what is missing, then trains: ./train.sh [OPTION=VALUE]..., ./train.sh --example demo, ./train.sh --help
set -euo pipefail
cd "$(dirname "$0")"
./scripts/setup all
exec .venv/bin/simpletuner train "$@"
