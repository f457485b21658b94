{{/* Common labels; the argument is a list of the root context and the component's name. */}}
{{- define "fairlead.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{ include "fairlead.selector" . }}
{{- end }}

{{/* Labels that select the pods of one component. */}}
{{- define "fairlead.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: fairlead
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The image reference. */}}
{{- define "fairlead.image" -}}
{{- $image := .Values.image -}}
{{- $name := $image.name -}}
{{- if $image.registry }}{{ $name = printf "%s/%s" $image.registry $image.name }}{{ end -}}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}{{ else }}{{ $name }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Name of the ConfigMap that tells whether the installation is being removed, and the addresses of all pools. */}}
{{- define "fairlead.state" -}}
{{ .Release.Name }}-state
{{- end }}

{{/* Name of the Secret with the key that speakers share. */}}
{{- define "fairlead.gossip" -}}
{{ .Release.Name }}-gossip
{{- end }}

{{/* Name of the Lease that the controllers elect their leader by. */}}
{{- define "fairlead.lease" -}}
{{ .Release.Name }}-controller
{{- end }}

{{/* Environment that all programs share. */}}
{{- define "fairlead.env" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: FAIRLEAD_STATE_CONFIGMAP
  value: {{ include "fairlead.state" . | quote }}
- name: FAIRLEAD_SERVE_CLASSLESS
  value: {{ .Values.serveClassless | quote }}
- name: FAIRLEAD_METALLB_ANNOTATIONS
  value: {{ .Values.compatibility.metallb | quote }}
- name: FAIRLEAD_LOG_LEVEL
  value: {{ .Values.logs.level | quote }}
- name: FAIRLEAD_LOG_FORMAT
  value: {{ .Values.logs.format | quote }}
{{- if and .Values.apiServer.host .Values.apiServer.port }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.apiServer.host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.apiServer.port | quote }}
{{- else if or .Values.apiServer.host .Values.apiServer.port }}
{{- fail "apiServer.host and apiServer.port go together: give both or neither" }}
{{- else if eq .Values.kubeProxy "absent" }}
{{- fail "kubeProxy: absent needs apiServer.host and apiServer.port, the API server's real address, since without kube-proxy nothing serves the kubernetes Service" }}
{{- end }}
{{- end }}

{{/* Environment of those that read the gossip key. */}}
{{- define "fairlead.gossipEnv" -}}
- name: FAIRLEAD_GOSSIP_SECRET
  value: {{ include "fairlead.gossip" . | quote }}
{{- end }}

{{/* Environment of the controller, and of the uninstall hook, which is the same program. */}}
{{- define "fairlead.controllerEnv" -}}
{{ include "fairlead.env" . }}
{{ include "fairlead.gossipEnv" . }}
{{- with .Values.finalizer }}
- name: FAIRLEAD_SERVICE_FINALIZER
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Health probes of a program; the argument is the port. */}}
{{- define "fairlead.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 2
{{- end }}

{{/* Pod settings that all programs share. */}}
{{- define "fairlead.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
