#!/usr/bin/env bash
# Tries the service on the cluster that kubectl points to: an upload, users without a failure while it
# scales up and down, a rolling update and the loss of a pod under load. It takes some 15 minutes and
# needs the images imagefleet-balancer, -worker and -client where the nodes find them.
#
#   tests/kubernetes/run.sh                       the overlay for minikube
#   OVERLAY=monitoring tests/kubernetes/run.sh    another one
#   CLIENT=registry.example/client:1 USERS=75 tests/kubernetes/run.sh
#   KEEP=1 tests/kubernetes/run.sh                leaves everything running
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

overlay=${OVERLAY:-minikube} client=${CLIENT:-imagefleet-client} users=${USERS:-75}
space=imagefleet
here() { kubectl --namespace "$space" "$@"; }

kubectl version >/dev/null 2>&1 || die "no cluster answers (kubectl version says why)"
say "The cluster is $(kubectl config current-context)."

# load NAME FLAGS...: a pod that sends requests; its summary is its log.
load() {
  local name=$1 flags
  shift
  flags=$(printf '"%s",' "$@")
  here delete pod "$name" --ignore-not-found --wait >/dev/null
  here apply --filename - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata:
  name: $name
  labels: { app.kubernetes.io/name: load }
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: { runAsNonRoot: true, runAsUser: 10001, seccompProfile: { type: RuntimeDefault } }
  containers:
    - name: client
      image: $client
      imagePullPolicy: IfNotPresent
      args: [load, "--target=http://balancer", "--json", "--out=/tmp/load", ${flags%,}]
      resources: { limits: { cpu: "1", memory: 512Mi } }
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      volumeMounts: [{ name: tmp, mountPath: /tmp }]
  volumes: [{ name: tmp, emptyDir: {} }]
POD
}

# finished NAME: waits for it and prints how many requests there were and how many failed.
finished() {
  until [[ $(here get pod "$1" --output 'jsonpath={.status.phase}') =~ Succeeded|Failed ]]; do sleep 1; done
  here logs "$1" | python3 -c '
import json, sys
text = sys.stdin.read()
summary = json.loads(text[text.index("{"):text.rindex("}") + 1])
outcomes = summary["outcomes"]
print(sum(outcomes.values()), sum(outcomes.values()) - outcomes.get("200", 0))'
}

# no_failure NAME WHAT: ends the test if a request of that pod failed.
no_failure() {
  local requests failed
  read -r requests failed < <(finished "$1")
  [ "${requests:-0}" -gt 0 ] || die "$2: no request was sent; kubectl --namespace $space logs $1"
  [ "$failed" = 0 ] || die "$2: $failed of $requests requests failed"
  say "$2: $requests requests, none failed."
}

replicas() { here get deployment worker --output 'jsonpath={.status.readyReplicas}'; }

# until_replicas LEAST MOST SECONDS WHAT: waits until so many workers are ready.
until_replicas() {
  local deadline=$((SECONDS + $3)) count
  until count=$(replicas) && ((${count:-0} >= $1 && ${count:-0} <= $2)); do
    [ "$SECONDS" -lt "$deadline" ] || die "$4: still ${count:-0} workers after $3 s"
    sleep 2
  done
  say "$4: $count workers."
}

say "Applying the overlay $overlay."
kubectl apply --filename deploy/kubernetes/base/namespace.yaml
here get secret imagefleet-admin >/dev/null 2>&1 \
  || here create secret generic imagefleet-admin --from-literal=token="$(openssl rand -hex 32)"
kubectl apply --kustomize "deploy/kubernetes/overlays/$overlay"
if [ -z "${KEEP:-}" ]; then
  trap 'kubectl delete --kustomize "deploy/kubernetes/overlays/$overlay" --wait=false >/dev/null' EXIT
fi
# What sends the load may reach the balancer, and the name server as all may.
here apply --filename - <<'POLICY'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: load }
spec:
  podSelector: { matchLabels: { app.kubernetes.io/name: load } }
  policyTypes: [Egress]
  egress:
    - to: [{ podSelector: { matchLabels: { app.kubernetes.io/name: balancer } } }]
POLICY
here rollout status deployment/worker --timeout 180s
here rollout status deployment/balancer --timeout 180s
least=$(here get hpa worker --output 'jsonpath={.spec.minReplicas}')
until_replicas "$least" 1000 120 "At rest"

say "Scaling: $users users without a pause."
load users --arrivals=closed "--users=$users" --think=0s --duration=240s --warm-up=5s
until_replicas $((least + 1)) 1000 240 "Under load"
no_failure users "Scaling up"
until_replicas "$least" "$least" 600 "Two quiet minutes later"

say "A rolling update at 100 requests per second."
load update --rate=100 --duration=120s
here rollout restart deployment/worker
here rollout status deployment/worker --timeout 180s
here rollout restart deployment/balancer
here rollout status deployment/balancer --timeout 180s
no_failure update "Rolling update"

say "The loss of a pod at 100 requests per second."
load loss --rate=100 --duration=60s
sleep 10
here delete pod --force --grace-period 0 \
  "$(here get pods --selector app.kubernetes.io/name=worker --output 'jsonpath={.items[0].metadata.name}')"
no_failure loss "Loss of a pod"
say "Everything held."
