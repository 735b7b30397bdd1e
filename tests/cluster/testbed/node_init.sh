#!/usr/bin/env bash
# The node's first process, in its own network, mounts and process ids; starts the rest. node.py starts it, in the
# state folder, and has written node/environment and the configurations.
set -euo pipefail
source node/environment
node=$PWD/node

# What these programs write outside their own folders must not be seen on the host, nor theirs be seen by us.
mount -t tmpfs none /run
mount --bind "$node/var-lib" /var/lib
mount --bind "$node/var-log" /var/log

until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done # node.py moves it here
ip link set lo up
ip address add "$NODE_IP/30" dev eth0
ip link set eth0 up
ip route add default via "$HOST_IP"
sysctl -qw net.ipv4.ip_forward=1
# Pods on one bridge that meet through a Service's address need it, where the kernel has it.
sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true

run() { # run NAME COMMAND...: in the background, with a log of its own
  local name=$1
  shift
  "$@" >>"log/$name" 2>&1 &
}
run containerd containerd -c "$node/containerd.toml"
until [[ -e $node/image-loaded ]]; do sleep 0.05; done # kubelet makes pods at once
run kubelet "$BIN_KUBELET" --config="$node/kubelet.yaml" --kubeconfig="$node/kubeconfig" --root-dir="$node/kubelet" \
  --hostname-override="$NODE_NAME" --node-ip="$NODE_IP"
run kube-proxy "$BIN_KUBE_PROXY" --config="$node/kube-proxy.yaml"
run coredns "$BIN_COREDNS" -conf "$node/Corefile"
# The first program that ends ends the node, so that nobody waits for half of one.
wait -n
echo "a program of the node ended; see log/containerd, kubelet, kube-proxy, coredns"
