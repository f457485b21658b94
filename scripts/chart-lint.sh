#!/usr/bin/env bash
# Lints the chart, renders it, and shows that its schema refuses what it must.
set -euo pipefail
cd "$(dirname "$0")/.."
chart=charts/fairlead
helm() { "$LAB" tool helm "$@"; }

helm lint --strict "$chart"
rendered=$(helm template fairlead "$chart" -n fairlead-system --kube-version 1.33.0)
echo "$rendered" | grep -q 'image: ghcr.io/fairlead-dev/fairlead:' || { echo "chart: the default image is wrong" >&2; exit 1; }
digest=sha256:$(printf '%064d' 0)
helm template fairlead "$chart" --kube-version 1.33.0 --set image.registry=registry.example:5000 --set image.digest="$digest" |
  grep -q "image: registry.example:5000/fairlead-dev/fairlead@$digest" || { echo "chart: registry and digest are not obeyed" >&2; exit 1; }

refuses() { # what, helm arguments…
  local what=$1
  shift
  if helm template fairlead "$chart" "$@" >/dev/null 2>&1; then
    echo "chart: accepts $what" >&2
    exit 1
  fi
}
refuses "an unknown value" --kube-version 1.33.0 --set speaker.prot=1
refuses "a port that is none" --kube-version 1.33.0 --set speaker.port=70000
refuses "an API server's host without a port" --kube-version 1.33.0 --set apiServer.host=192.0.2.1
refuses "a lease that ends before its leader has stopped" --kube-version 1.33.0 --set controller.leaderElection.renewDeadlineSeconds=15
refuses "a renew deadline without a second attempt" --kube-version 1.33.0 --set controller.leaderElection.retryPeriodSeconds=9
refuses "a Kubernetes that is too old" --kube-version 1.32.0
echo "chart: lint and schema checks passed"
