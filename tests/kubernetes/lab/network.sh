# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by lab.sh, whose variables and functions it uses: a switch, the plane and the nodes, each a network namespace.

address_of() { echo "10.233.7.1${1#node}"; }
pods_of() { echo "10.244.${1#node}"; }

namespace() {
  local name=$1 address=$2
  ip netns add "lab-$name"
  ip -n "lab-$name" link set lo up
  ip -n lab-switch link add "port-$name" type veth peer name eth0 netns "lab-$name"
  ip -n lab-switch link set "port-$name" master bridge up
  ip -n "lab-$name" address add "$address/24" dev eth0
  ip -n "lab-$name" link set eth0 up
}

make_network() {
  ip netns list | cut -d' ' -f1 | sort >"$lab/namespaces"
  ip netns add lab-switch
  ip -n lab-switch link add name bridge type bridge
  ip -n lab-switch link set bridge up
  namespace plane "$plane_address"
  local node other
  for node in "${nodes[@]}"; do
    namespace "$node" "$(address_of "$node")"
    # The addresses of Services need a route, which the proxy then changes; the plane leads nowhere.
    ip -n "lab-$node" route add default via "$plane_address"
    nsenter --net="/run/netns/lab-$node" sysctl -q -w net.ipv4.ip_forward=1
  done
  for node in plane "${nodes[@]}"; do
    for other in "${nodes[@]}"; do
      [ "$node" = "$other" ] || ip -n "lab-$node" route add "$(pods_of "$other").0/24" via "$(address_of "$other")"
    done
  done
}

# clear_network: deletes our namespaces, and those of pods that still existed at the end.
clear_network() {
  local name
  for name in $(ip netns list | cut -d' ' -f1 | sort | comm -13 "$lab/namespaces" - | grep -E '^(cni-|lab-)'); do
    ip netns delete "$name"
  done
}
