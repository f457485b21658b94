#!/usr/bin/env bash
# Lints the chart, renders it, and shows that its schema refuses what it must.
set -euo pipefail
cd "$(dirname "$0")/.."
chart=charts/fairlead
helm() { "$LAB" tool helm "$@"; }

helm lint --strict "$chart"
render() { helm template fairlead "$chart" -n fairlead-system --kube-version 1.33.0 "$@"; }
# The whole output is read: a `grep -q` in a pipe would end helm early, which counts as a failure.
has() { # what, text, helm arguments…
  local rendered
  rendered=$(render "${@:3}")
  grep -qF -- "$2" <<<"$rendered" || { echo "chart: $1: $2 is missing" >&2; exit 1; }
}
lacks() { # what, text, helm arguments…
  local rendered
  rendered=$(render "${@:3}")
  if grep -qF -- "$2" <<<"$rendered"; then echo "chart: $1: $2 is there" >&2; exit 1; fi
}
digest=sha256:$(printf '%064d' 0)
has "the default image" 'image: ghcr.io/fairlead-dev/fairlead:'
has "registry and digest" "image: registry.example:5000/fairlead-dev/fairlead@$digest" \
  --set image.registry=registry.example:5000 --set image.digest="$digest"
for policy in external-ips-in-pools external-ips-record requests; do
  has "policies by default" "name: fairlead-$policy"
done
has "the record's writer" "'system:serviceaccount:fairlead-system:fairlead-controller'"
lacks "addresses outside pools by default" fairlead-external-ips-outside-pools
has "addresses outside pools denied" "name: fairlead-external-ips-outside-pools" \
  --set admissionPolicies.externalIPsOutsidePools=Deny
lacks "policies switched off" ValidatingAdmissionPolicy \
  --set admissionPolicies.enabled=false --set admissionPolicies.externalIPsOutsidePools=Deny
lacks "the finalizer by default" FAIRLEAD_SERVICE_FINALIZER
has "the finalizer" FAIRLEAD_SERVICE_FINALIZER --set finalizer=cloud
has "a service proxy by default" '- --kube-proxy=present'
has "no kube-proxy" '- --kube-proxy=absent' --set kubeProxy=absent --set apiServer.host=192.0.2.1 --set apiServer.port=6443
has "how pods are told" 'value: "interfacePrefixes=cali,lxc"' --set 'nodeAgent.podSources=interfacePrefixes=cali\,lxc'
has "where node ports are served" 'value: "10.0.0.0/8,fd00::/8"' --set 'nodeAgent.nodePortAddresses={10.0.0.0/8,fd00::/8}'
has "node ports at the primary addresses" 'value: "primary"' --set 'nodeAgent.nodePortAddresses={primary}'
# BGP: off by default, and then nothing of it is there.
bgp=(--set speaker.bgp.enabled=true)
for text in fairlead-bgpd --bgp-socket /run/fairlead/bgp; do
  lacks "BGP by default" "$text"
  has "BGP" "$text" "${bgp[@]}"
done
has "the daemon's image" 'image: ghcr.io/fairlead-dev/fairlead-gobgp:' "${bgp[@]}"
has "one registry for both images" 'image: registry.example/fairlead-dev/fairlead-gobgp:' "${bgp[@]}" --set image.registry=registry.example
has "a registry for the daemon alone" "image: mirror.example/fairlead-dev/fairlead-gobgp@$digest" "${bgp[@]}" \
  --set speaker.bgp.image.registry=mirror.example --set speaker.bgp.image.digest="$digest"
has "the drain time" '- --bgp-drain-time=9s' "${bgp[@]}" --set speaker.bgp.drainTimeSeconds=9
has "the heartbeat timeout" '- --heartbeat-timeout=20s' "${bgp[@]}" --set speaker.bgp.heartbeatTimeoutSeconds=20
has "the time to wait for the speaker" '- --end-timeout=52s' "${bgp[@]}" --set speaker.terminationGracePeriodSeconds=60
lacks "the right to read Secrets without passwords" fairlead-speaker-passwords "${bgp[@]}"
lacks "the right to read Secrets without BGP" fairlead-speaker-passwords --set 'speaker.bgp.passwordSecrets={tor}'
has "the right to read the passwords" 'resourceNames: ["tor","spine"]' "${bgp[@]}" --set 'speaker.bgp.passwordSecrets={tor,spine}'
has "flags of the speaker" '- "--probe-interval=1s"' --set 'speaker.extraArgs={--probe-interval=1s}'
# The three programs and the uninstall hook.
told=$(render --set compatibility.metallb=true | grep -A1 FAIRLEAD_METALLB_ANNOTATIONS | grep -c 'value: "true"')
[ "$told" = 4 ] || { echo "chart: compatibility.metallb reaches $told programs of 4" >&2; exit 1; }

# The controller, the speaker and the uninstall hook. Nothing of the key itself is ever rendered.
told=$(render | grep -A1 FAIRLEAD_GOSSIP_SECRET | grep -c 'value: "fairlead-gossip"')
[ "$told" = 3 ] || { echo "chart: the gossip key's Secret reaches $told programs of 3" >&2; exit 1; }
lacks "a Secret of the chart" "kind: Secret"

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
refuses "no kube-proxy without the API server's address" --kube-version 1.33.0 --set kubeProxy=absent
refuses "a guess at kube-proxy" --kube-version 1.33.0 --set kubeProxy=auto
refuses "a guess at pods" --kube-version 1.33.0 --set nodeAgent.podSources=cali
refuses "an address instead of a range" --kube-version 1.33.0 --set 'nodeAgent.nodePortAddresses={192.0.2.1}'
refuses "a drain that takes longer than the pod may" --kube-version 1.33.0 --set speaker.bgp.enabled=true --set speaker.bgp.drainTimeSeconds=16
refuses "a heartbeat timeout shorter than a restart" --kube-version 1.33.0 --set speaker.bgp.heartbeatTimeoutSeconds=2
refuses "a Secret's name that is none" --kube-version 1.33.0 --set 'speaker.bgp.passwordSecrets={a/b}'
refuses "a lease that ends before its leader has stopped" --kube-version 1.33.0 --set controller.leaderElection.renewDeadlineSeconds=15
refuses "a renew deadline without a second attempt" --kube-version 1.33.0 --set controller.leaderElection.retryPeriodSeconds=9
refuses "an unknown finalizer" --kube-version 1.33.0 --set finalizer=own
refuses "half a decision on addresses outside pools" --kube-version 1.33.0 --set admissionPolicies.externalIPsOutsidePools=Warn
refuses "a word for yes" --kube-version 1.33.0 --set-string admissionPolicies.enabled=yes
refuses "an unknown compatibility" --kube-version 1.33.0 --set compatibility.cilium=true
refuses "a Kubernetes that is too old" --kube-version 1.32.0
echo "chart: lint and schema checks passed"
