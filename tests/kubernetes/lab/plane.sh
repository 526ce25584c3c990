# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by lab.sh, whose variables and functions it uses: etcd, the API server, the controllers and the scheduler.

# certificate NAME SUBJECT [ALTERNATIVE-NAMES]: makes a key and a certificate signed by the cluster's authority.
certificate() {
  local name=$1 subject=$2 names=${3:-}
  openssl req -new -newkey rsa:2048 -nodes -subj "$subject" -keyout "$lab/tls/$name.key" -out "$lab/tls/$name.csr" 2>/dev/null
  openssl x509 -req -in "$lab/tls/$name.csr" -CA "$lab/tls/ca.crt" -CAkey "$lab/tls/ca.key" -CAcreateserial -days 30 \
    -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n'; [ -z "$names" ] || printf 'subjectAltName=%s\n' "$names") \
    -out "$lab/tls/$name.crt" 2>/dev/null
}

# account FILE USER GROUPS: writes a kubeconfig file with which a client acts as the user.
account() {
  local token
  token=$(openssl rand -hex 24)
  echo "$token,$2,$2,\"$3\"" >>"$lab/tls/tokens"
  (umask 077 && cat >"$lab/$1" <<CONFIG)
apiVersion: v1
kind: Config
current-context: lab
clusters:
  - name: lab
    cluster: { server: "https://$plane_address:6443", certificate-authority: $lab/tls/ca.crt }
users:
  - name: lab
    user: { token: $token }
contexts:
  - name: lab
    context: { cluster: lab, user: lab }
CONFIG
}

make_accounts() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=lab -keyout "$lab/tls/ca.key" -out "$lab/tls/ca.crt" 2>/dev/null
  certificate apiserver /CN=apiserver "IP:$plane_address,IP:$cluster_address,DNS:kubernetes.default.svc"
  certificate to-kubelets /O=system:masters/CN=apiserver
  certificate front-proxy /CN=front-proxy
  openssl genrsa -out "$lab/tls/accounts.key" 2048 2>/dev/null
  account admin.conf admin system:masters
  account controllers.conf system:kube-controller-manager ""
  account scheduler.conf system:kube-scheduler ""
  account proxy.conf system:kube-proxy ""
  local node
  for node in "${nodes[@]}"; do account "kubelet-$node.conf" "system:node:$node" system:nodes; done
}

start_plane() {
  local tls=$lab/tls
  make_accounts
  start etcd lab-plane etcd --data-dir "$lab/etcd" --listen-peer-urls http://127.0.0.1:2380 \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
  start kube-apiserver lab-plane "$cache/bin/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
    --advertise-address "$plane_address" --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC \
    --tls-cert-file "$tls/apiserver.crt" --tls-private-key-file "$tls/apiserver.key" --client-ca-file "$tls/ca.crt" \
    --token-auth-file "$tls/tokens" --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate "$tls/to-kubelets.crt" --kubelet-client-key "$tls/to-kubelets.key" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$tls/accounts.key" \
    --service-account-signing-key-file "$tls/accounts.key" --requestheader-client-ca-file "$tls/ca.crt" \
    --requestheader-allowed-names front-proxy --requestheader-username-headers X-Remote-User \
    --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$tls/front-proxy.crt" --proxy-client-key-file "$tls/front-proxy.key" \
    --enable-aggregator-routing
  until_ok 120 "the API server" kube get --raw /readyz
  start kube-controller-manager lab-plane "$cache/bin/kube-controller-manager" --kubeconfig "$lab/controllers.conf" \
    --service-account-private-key-file "$tls/accounts.key" --root-ca-file "$tls/ca.crt" --use-service-account-credentials \
    --leader-elect=false
  start kube-scheduler lab-plane "$cache/bin/kube-scheduler" --kubeconfig "$lab/scheduler.conf" --leader-elect=false
}
