//go:build tools

package programs

// What a node with real pods needs besides the control plane.
import (
	_ "github.com/coredns/coredns"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
