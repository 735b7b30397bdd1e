//go:build tools

package programs

// What the chart's tests render it with.
import (
	_ "helm.sh/helm/v4/cmd/helm"
)
