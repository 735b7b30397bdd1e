//go:build tools

package programs

// What a node with real pods needs besides the control plane, and what its tests install the chart with.
import (
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "github.com/coredns/coredns"
)
