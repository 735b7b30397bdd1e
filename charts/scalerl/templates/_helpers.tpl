{{/* The chart's part in names. */}}
{{- define "scalerl.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of all objects. 45: "-fleet-dashboard" and a pod's suffix must fit into 63. */}}
{{- define "scalerl.fullname" -}}
{{- $name := include "scalerl.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change. */}}
{{- define "scalerl.instanceLabels" -}}
app.kubernetes.io/name: {{ include "scalerl.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects the operator's pods, and not the test's. */}}
{{- define "scalerl.selectorLabels" -}}
{{ include "scalerl.instanceLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of all objects but for the component. */}}
{{- define "scalerl.releaseLabels" -}}
{{ include "scalerl.instanceLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: scalerl
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "scalerl.labels" -}}
{{ include "scalerl.releaseLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "scalerl.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "scalerl.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* An image; takes a dict of image and chart. */}}
{{- define "scalerl.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "scalerl.tokenKeySecret" -}}
{{- .Values.tokenKey.existingSecret | default (printf "%s-token-key" (include "scalerl.fullname" .)) -}}
{{- end -}}

{{/* What the pod security standard "restricted" asks of a pod and of a container. */}}
{{- define "scalerl.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "scalerl.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the operator is told about the network of runs' pods: whom besides each other they meet. */}}
{{- define "scalerl.runsNetwork" -}}
{{- $own := dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace)) -}}
{{- $from := prepend .Values.networkPolicy.metricsFrom $own -}}
{{- dict "httpFrom" $from "outside" .Values.networkPolicy.runs.outside | toJson -}}
{{- end -}}

{{/* What the operator may do in the namespaces that it serves. A test compares it with the calls in its code. */}}
{{- define "scalerl.rules" -}}
- apiGroups: [scalerl.io]
  resources: [rlruns]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [scalerl.io]
  resources: [rlruns/status]
  verbs: [patch]
# An owner that blocks its deletion: asked for where OwnerReferencesPermissionEnforcement is on, as in OpenShift.
- apiGroups: [scalerl.io]
  resources: [rlruns/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
# Server-side apply: written, never read. Tokens are derived, so that no Secret has to be.
- apiGroups: [""]
  resources: [services, secrets, persistentvolumeclaims]
  verbs: [create, patch]
# A run's curve is read before a point is added to it.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
{{- end -}}
