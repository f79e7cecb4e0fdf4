#!/usr/bin/env bash
# Installs the peers that bench.py can be compared with, each in its own environment: peers.sh FOLDER
# Needs the make targets' .venv (for uv), and node with npm for Portkey.
set -euo pipefail
folder=$(mkdir -p "${1:?usage: peers.sh FOLDER}" && cd "$1" && pwd)
uv=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/uv

# LiteLLM never 1.82.7, 1.82.8 or 1.107.0: those releases were compromised in 2026.
for peer in 'vllm-router==0.1.17' 'litellm[proxy]==1.81.16'; do
  place=$folder/$(sed 's/[=[].*//' <<<"$peer")
  UV_PYTHON_DOWNLOADS=never "$uv" venv --quiet --python python3.11 "$place"
  "$uv" pip install --quiet --python "$place/bin/python" --only-binary :all: "$peer"
done

# With @hono/node-server 1.19 Portkey 1.15.2 answers 500 to every streamed request on Node 20.
mkdir -p "$folder/portkey"
cd "$folder/portkey"
cat >package.json <<'JSON'
{
  "name": "peer", "version": "1.0.0", "private": true,
  "dependencies": {"@portkey-ai/gateway": "1.15.2"},
  "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.8"}
}
JSON
npm install --ignore-scripts --no-audit --no-fund --silent
echo "installed in $folder; compare with: python load_tests/bench.py --peers $folder"
