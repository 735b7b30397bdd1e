{{/* The chart's part of names. */}}
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

{{/* Selector of the operator's pods, which excludes the test's. */}}
{{- define "scalerl.selectorLabels" -}}
{{ include "scalerl.instanceLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of all objects, without the component. */}}
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

{{/* Security contexts that satisfy the pod security standard "restricted". */}}
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

{{/* The peers of runs' pods, passed to the operator, which creates the runs' NetworkPolicies. */}}
{{- define "scalerl.runsNetwork" -}}
{{- $own := dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace)) -}}
{{- $from := prepend .Values.networkPolicy.metricsFrom $own -}}
{{- dict "httpFrom" $from "outside" .Values.networkPolicy.runs.outside | toJson -}}
{{- end -}}

{{/* Permissions of the operator in watched namespaces. A test compares them with the calls in its code. */}}
{{- define "scalerl.rules" -}}
- apiGroups: [scalerl.io]
  resources: [rlruns]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [scalerl.io]
  resources: [rlruns/status]
  verbs: [patch]
# blockOwnerDeletion: required where OwnerReferencesPermissionEnforcement is enabled, as in OpenShift.
- apiGroups: [scalerl.io]
  resources: [rlruns/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
# Server-side apply needs no read access. Tokens are derived from a key, so no Secret is read.
- apiGroups: [""]
  resources: [services, secrets, persistentvolumeclaims]
  verbs: [create, patch]
# get: a run's curve is read before points are appended.
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
