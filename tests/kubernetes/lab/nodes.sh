# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by lab.sh, whose variables and functions it uses: containerd, kubelet and proxy of a node, and the cgroups of
# its pods.

groups=/sys/fs/cgroup
# Kernel settings that a kubelet changes and `down` restores.
tunables=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

containers() { ctr --address "$lab/$1/containerd.sock" --namespace k8s.io "${@:2}"; }

all_nodes_are_ready() {
  [ "$(kube get nodes --no-headers | awk '$2 == "Ready"' | wc -l)" = "${#nodes[@]}" ]
}

# make_groups NODE: makes the folder of its pods in each hierarchy. A cpuset has to be given its processors and memory
# nodes; the shares leave little processor time to whatever else the machine does.
make_groups() {
  local folder
  for folder in "$groups"/*/; do
    [ -e "$folder/cgroup.clone_children" ] || continue
    mkdir -p "$folder/imagefleet-lab/$1"
    if [ -e "$folder/cpuset.cpus" ]; then
      for part in imagefleet-lab "imagefleet-lab/$1"; do
        cat "$folder/cpuset.cpus" >"$folder/$part/cpuset.cpus"
        cat "$folder/cpuset.mems" >"$folder/$part/cpuset.mems"
      done
    fi
    [ ! -e "$folder/cpu.shares" ] || echo 8192 >"$folder/imagefleet-lab/cpu.shares"
  done
}

write_containerd() {
  local node=$1 home=$lab/$1
  cat >"$home/containerd.toml" <<TOML
version = 2
root = "$home/containerd"
state = "$home/run"
[grpc]
  address = "$home/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:lab"
  # Not every root may exempt a process from the killer of the memory-hungry.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$home/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
TOML
  cat >"$home/cni/10-lab.conflist" <<JSON
{ "cniVersion": "0.4.0", "name": "lab", "plugins": [
  { "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "$home/addresses", "routes": [{ "dst": "0.0.0.0/0" }],
              "ranges": [[{ "subnet": "$(pods_of "$node").0/24" }]] } },
  { "type": "portmap", "capabilities": { "portMappings": true } } ] }
JSON
}

write_kubelet() {
  local node=$1 home=$lab/$1
  cat >"$home/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /imagefleet-lab/$node
containerRuntimeEndpoint: unix://$home/containerd.sock
address: $(address_of "$node")
authentication:
  anonymous: { enabled: false }
  webhook: { enabled: true }
  x509: { clientCAFile: $lab/tls/ca.crt }
authorization: { mode: Webhook }
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
podLogsDir: $home/logs
volumePluginDir: $home/plugins
# The nodes share one machine: each offers half of it, and the plane runs beside them.
kubeReserved: { cpu: "$(($(nproc) / 2))", memory: "$(($(awk '/MemTotal/ { print $2 }' /proc/meminfo) / 2048))Mi" }
evictionHard: { memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1% }
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
YAML
  cat >"$home/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: { kubeconfig: $lab/proxy.conf }
clusterCIDR: 10.244.0.0/16
hostnameOverride: $node
# The number of tracked connections is the machine's, not a namespace's.
conntrack: { maxPerCore: 0, min: 0 }
YAML
}

start_node() {
  local node=$1 home=$lab/$1 image
  [ -e "$lab/kernel" ] || sysctl "${tunables[@]}" >"$lab/kernel"
  mkdir -p "$home"/{cni,logs,plugins}
  make_groups "$node"
  write_containerd "$node"
  write_kubelet "$node"
  start "containerd-$node" "lab-$node" containerd --config "$home/containerd.toml"
  until_ok 60 "containerd of $node" containers "$node" version
  for image in "$cache"/images/*.tar; do
    containers "$node" images import "$image" >/dev/null || die "$node does not take $image"
  done
  start "kubelet-$node" "lab-$node" "$cache/bin/kubelet" --config "$home/kubelet.yaml" --kubeconfig "$lab/kubelet-$node.conf" \
    --root-dir "$home/kubelet" --cert-dir "$home/pki" --hostname-override "$node" --node-ip "$(address_of "$node")" \
    --node-labels "topology.kubernetes.io/zone=zone-$node"
  start "kube-proxy-$node" "lab-$node" "$cache/bin/kube-proxy" --config "$home/proxy.yaml"
}

# clear_node NODE: removes its containers, their mounts, and its cgroups.
clear_node() {
  local node=$1 task folder
  stop "kube-proxy-$node"
  for task in $(containers "$node" tasks list --quiet 2>/dev/null); do
    containers "$node" tasks delete --force "$task" >/dev/null 2>&1 || true
  done
  stop "containerd-$node"
  awk -v home="$lab/$node/" 'index($2, home) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mounted; do
    umount "$mounted" 2>/dev/null || umount --lazy "$mounted" || true
  done
  for folder in "$groups"/*/imagefleet-lab; do
    [ ! -d "$folder/$node" ] || find "$folder/$node" -depth -type d -exec rmdir {} + 2>/dev/null || true
    rmdir "$folder" 2>/dev/null || true
  done
  # Links that a kubelet makes, whatever folder is set for its logs.
  find /var/log/containers -lname "$lab/*" -delete 2>/dev/null || true
}

restore_kernel() {
  [ ! -e "$lab/kernel" ] || sysctl --quiet --load "$lab/kernel"
}
