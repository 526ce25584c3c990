#!/usr/bin/env bash
# Tests the service on the cluster that kubectl points to: an upload, users that see no failure while it
# scales up and down, a rolling update, the loss of a pod and, if there are several nodes, the drain of one
# under load. It takes about 15 minutes and needs the images imagefleet-balancer, -worker and -client where
# the nodes find them.
#
#   tests/kubernetes/run.sh                       the overlay for minikube
#   OVERLAY=gke tests/kubernetes/run.sh           another overlay that includes the service, or a folder
#   RECORD=1 tests/kubernetes/run.sh              records the figures in bench/results
#   CLIENT=registry.example/client:1 USERS=75 tests/kubernetes/run.sh
#   KEEP=1 tests/kubernetes/run.sh                leaves everything running
#
# Every wait is limited: PATIENCE is the number of seconds that a pod may take to start, and to end after its
# time is over (120).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

overlay=${OVERLAY:-minikube}
[ -d "$overlay" ] || overlay=deploy/kubernetes/overlays/$overlay
client=${CLIENT:-imagefleet-client} users=${USERS:-75}
patience=${PATIENCE:-120}
space=imagefleet
here() { kubectl --namespace "$space" "$@"; }
# look VERB…: for requests that are answered immediately or not at all.
look() { here --request-timeout=30s "$@"; }

kubectl --request-timeout=30s version >/dev/null 2>&1 || die "no cluster answers (kubectl version says why)"
say "The cluster is $(kubectl config current-context)."

# phase_of NAME: prints the phase of a pod.
phase_of() { look get pod "$1" --output 'jsonpath={.status.phase}'; }

# until_phase NAME PATTERN DEADLINE WHAT: waits until the pod is in one of these phases.
until_phase() {
  until [[ $(phase_of "$1") =~ $2 ]]; do
    [ "$SECONDS" -lt "$3" ] || die "pod $1: $4: $(look get pod "$1" --output \
      'jsonpath={.status.phase} {.status.containerStatuses[*].state.waiting.reason}'); kubectl --namespace $space describe pod $1"
    sleep 1
  done
}

declare -A ends
# load NAME SECONDS FLAGS...: starts a pod that sends requests for that long, and waits until it has begun;
# its log is the summary.
load() {
  local name=$1 seconds=$2 flags
  shift 2
  flags=$(printf '"%s",' "--duration=${seconds}s" "$@")
  here delete pod "$name" --ignore-not-found --timeout="${patience}s" >/dev/null
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
      resources: { requests: { cpu: 100m, memory: 64Mi }, limits: { cpu: "1", memory: 512Mi } }
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      volumeMounts: [{ name: tmp, mountPath: /tmp }]
  volumes: [{ name: tmp, emptyDir: {} }]
POD
  until_phase "$name" 'Running|Succeeded|Failed' $((SECONDS + patience)) "does not begin"
  ends[$name]=$((SECONDS + seconds + patience))
}

# finished NAME: waits for the pod and prints the number of requests, the number of failures, and the median
# and the 99th percentile of the response times in milliseconds.
finished() {
  until_phase "$1" 'Succeeded|Failed' "${ends[$1]}" "does not end"
  look logs "$1" | python3 -c '
import json, sys
text = sys.stdin.read()
if "{" not in text:
    sys.exit()
summary = json.loads(text[text.index("{"):text.rindex("}") + 1])
outcomes, latency = summary["outcomes"], summary["latency_ms"]
failed = sum(outcomes.values()) - outcomes.get("200", 0)
print(sum(outcomes.values()), failed, latency["p50"], latency["p99"] or latency["max"])'
}

figures=$(mktemp)
# no_failure NAME WHAT: ends the test if a request of that pod failed.
no_failure() {
  local requests failed median late said
  said=$(finished "$1") || exit 1
  read -r requests failed median late <<<"$said"
  [ "${requests:-0}" -gt 0 ] || die "$2: no request was sent; kubectl --namespace $space logs $1"
  [ "$failed" = 0 ] || die "$2: $failed of $requests requests failed; kubectl --namespace $space logs $1"
  say "$2: $requests requests, none failed; median $median ms, 99th percentile $late ms."
  printf '{"what": "%s", "of": "%s", "unit": "%s", "values": [%s]}\n' "$2" requests '' "$requests" \
    "$2" failed '' "$failed" "$2" median ms "$median" "$2" "99th percentile" ms "$late" >>"$figures"
}

# upload: uploads a picture from this machine through a port that kubectl forwards.
upload() {
  local ways way port answer deadline=$((SECONDS + patience))
  ways=$(mktemp)
  here port-forward service/balancer 0:80 >"$ways" &
  way=$!
  until port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$ways") && [ -n "$port" ]; do
    kill -0 "$way" 2>/dev/null || die "kubectl port-forward ended before there was a way to the balancer"
    [ "$SECONDS" -lt "$deadline" ] || { kill "$way"; die "kubectl port-forward opens no way to the balancer"; }
    sleep 0.2
  done
  answer=$(curl --silent --show-error --max-time 30 --form model=mnist --form image=@docs/seven.png "http://127.0.0.1:$port/submit") || true
  kill "$way"
  rm -f "$ways"
  [ "$answer" = '"7"' ] || die "a seven was uploaded, and the answer is: $answer"
  say "A seven was uploaded and recognised."
}

replicas() { look get deployment worker --output 'jsonpath={.status.readyReplicas}'; }

# until_replicas LEAST MOST SECONDS WHAT: waits until LEAST to MOST workers are ready.
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
look get secret imagefleet-admin >/dev/null 2>&1 \
  || here create secret generic imagefleet-admin --from-literal=token="$(openssl rand -hex 32)"
kubectl apply --kustomize "$overlay"
if [ -z "${KEEP:-}" ]; then
  # Wait until all is deleted, so that the next run can create its objects.
  trap 'kubectl delete --kustomize "$overlay" --timeout=180s >/dev/null' EXIT
fi
# The pods that send the load may reach the balancer and, like all pods, the name server.
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
upload
least=$(look get hpa worker --output 'jsonpath={.spec.minReplicas}')
until_replicas "$least" 1000 120 "At rest"

say "Scaling: $users users without a pause."
load users 240 --arrivals=closed "--users=$users" --think=0s --warm-up=5s
until_replicas $((least + 1)) 1000 240 "Under load"
no_failure users "Scaling up"
until_replicas "$least" "$least" 600 "Two quiet minutes later"

# The rest needs more than one of each: a single replica cannot go away unnoticed.
here patch hpa worker --patch '{"spec": {"minReplicas": 2}}'
here scale deployment balancer --replicas 2
here rollout status deployment/balancer --timeout 180s
until_replicas 2 1000 120 "Two of each"

say "A rolling update at 100 requests per second."
load update 120 --workload=iris --rate=100
here rollout restart deployment/worker
here rollout status deployment/worker --timeout 180s
here rollout restart deployment/balancer
here rollout status deployment/balancer --timeout 180s
no_failure update "Rolling update"

say "The loss of a pod at 100 requests per second."
load loss 60 --workload=iris --rate=100
sleep 10
here delete pod --force --grace-period 0 --timeout 60s \
  "$(look get pods --selector app.kubernetes.io/name=worker --output 'jsonpath={.items[0].metadata.name}')"
no_failure loss "Loss of a pod"

if [ "$(kubectl --request-timeout=30s get nodes --output name | wc -l)" -gt 1 ]; then
  say "The drain of a node at 100 requests per second."
  load drain 90 --workload=iris --rate=100
  # A node with a worker, but without the pod that sends the load.
  busy=$(look get pod drain --output 'jsonpath={.spec.nodeName}')
  node=$(look get pods --selector app.kubernetes.io/name=worker \
    --output 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | grep --max-count 1 --invert-match --line-regexp "$busy")
  kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --pod-selector app.kubernetes.io/part-of=imagefleet --timeout 120s
  here rollout status deployment/worker --timeout 180s
  here rollout status deployment/balancer --timeout 180s
  kubectl uncordon "$node"
  no_failure drain "Drain of a node"
fi
[ -z "${RECORD:-}" ] || python3 bench/record.py kubernetes --command "tests/kubernetes/run.sh" <"$figures"
say "Everything held."
