#!/usr/bin/env bash
# Compare the wire contract with the last released tag, or with main where nothing has been released yet.
set -euo pipefail
cd "$(dirname "$0")/.."
base=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git rev-parse --quiet --verify main || git rev-parse HEAD)
if ! git cat-file -e "$base:proto/buf.yaml" 2>/dev/null; then
  echo "no earlier contract to compare with"
  exit 0
fi
exec buf breaking proto --against ".git#ref=$(git rev-parse "$base^{commit}"),subdir=proto"
