#!/usr/bin/env bash
# A Kubernetes cluster on this machine, for the tests beside this script: etcd, API server, controllers and
# scheduler, two nodes with kubelet, containerd and proxy, CoreDNS and metrics-server. Each node has a
# network namespace of its own; the machine's network is not touched. As root, on Debian:
#
#   tests/kubernetes/lab.sh build                  the cluster's programs from their sources, once
#   tests/kubernetes/lab.sh images                 the images: the service, Locust, the cluster's own
#   tests/kubernetes/lab.sh up                     starts the cluster
#   tests/kubernetes/lab.sh run COMMAND…           a command that reaches it: kubectl, tests/kubernetes/run.sh
#   tests/kubernetes/lab.sh down                   stops the cluster and removes it
#
# The first build takes as long as that of Kubernetes: half an hour on two free cores. What is built stays
# under LAB_CACHE (~/.cache/imagefleet-lab), the cluster itself lives under LAB (/var/lib/imagefleet-lab).
# PROGRAMS=target/release uses programs of the service that are already built.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

cache=${LAB_CACHE:-$HOME/.cache/imagefleet-lab} lab=${LAB:-/var/lib/imagefleet-lab}
here=tests/kubernetes/lab
# What is published to the nodes, and where they are in their own network.
plane_address=10.233.7.1 cluster_address=10.96.0.1 nodes=(node1 node2)
# shellcheck source=tests/kubernetes/lab/build.sh
source "$here/build.sh"
# shellcheck source=tests/kubernetes/lab/network.sh
source "$here/network.sh"
# shellcheck source=tests/kubernetes/lab/plane.sh
source "$here/plane.sh"
# shellcheck source=tests/kubernetes/lab/nodes.sh
source "$here/nodes.sh"

# start NAME NAMESPACE PROGRAM…: starts a program that keeps running after this script, until `down`.
start() {
  local name=$1 namespace=$2
  shift 2
  setsid nsenter --net="/run/netns/$namespace" "$@" >"$lab/log/$name" 2>&1 </dev/null &
  echo $! >"$lab/pids/$name"
}

# until_ok SECONDS WHAT COMMAND…: waits until the command succeeds.
until_ok() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "$what: not within the time; the programs' words are in $lab/log"
    sleep 0.5
  done
}

# stop NAME: terminates the program and waits until it has ended.
stop() {
  local pid
  pid=$(cat "$lab/pids/$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$lab/pids/$1"
}

kube() { nsenter --net=/run/netns/lab-plane env KUBECONFIG="$lab/admin.conf" kubectl "$@"; }

up() {
  [ ! -e "$lab/pids" ] || die "the cluster is up already, or was not cleared away: $0 down"
  [ -e "$cache/bin/pause" ] || die "first: $0 build"
  [ -e "$cache/images/imagefleet-worker.tar" ] || die "first: $0 images"
  for program in etcd containerd runc ctr nft kubectl openssl nsenter; do
    command -v "$program" >/dev/null || die "no $program (Debian: apt install ${debian[*]})"
  done
  mkdir -p "$lab"/{log,pids,tls}
  make_network
  start_plane
  for node in "${nodes[@]}"; do start_node "$node"; done
  until_ok 120 "nodes" all_nodes_are_ready
  kube apply --filename "$here/system.yaml" >/dev/null
  kube --namespace kube-system rollout status deployment/coredns --timeout 120s >&2
  kube --namespace kube-system rollout status deployment/metrics-server --timeout 120s >&2
  until_ok 120 "figures of the nodes" kube top nodes
  say "The cluster is up: $0 run kubectl get nodes"
}

down() {
  # The kubelets go first, so that they do not restart what is being removed.
  for node in "${nodes[@]}"; do stop "kubelet-$node"; done
  for node in "${nodes[@]}"; do clear_node "$node"; done
  for name in kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$name"; done
  clear_network
  restore_kernel
  rm -rf "$lab"
  say "The cluster is gone."
}

case ${1:-} in
  build) build ;;
  images) images ;;
  up) up ;;
  down) down ;;
  run)
    shift
    exec nsenter --net=/run/netns/lab-plane env KUBECONFIG="$lab/admin.conf" "$@"
    ;;
  -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "tests/kubernetes/${0##*/}" ;;
  *) die "build, images, up, run COMMAND or down; --help says more" ;;
esac
