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

{{/* An image reference; the argument is a list of the root context and the image's values. */}}
{{- define "fairlead.imageOf" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $image.registry | default $root.Values.image.registry -}}
{{- $name := $image.name -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $image.name }}{{ end -}}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}{{ else }}{{ $name }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* The image of our programs. */}}
{{- define "fairlead.image" -}}
{{ include "fairlead.imageOf" (list . .Values.image) }}
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
{{ include "fairlead.logEnv" . }}
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

{{/* How logs are written. */}}
{{- define "fairlead.logEnv" -}}
- name: FAIRLEAD_LOG_LEVEL
  value: {{ .Values.logs.level | quote }}
- name: FAIRLEAD_LOG_FORMAT
  value: {{ .Values.logs.format | quote }}
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

{{/* Arguments of the speaker. */}}
{{- define "fairlead.speakerArgs" -}}
- --listen=0.0.0.0:{{ .Values.speaker.port }}
- --gossip-port={{ .Values.speaker.gossip.port }}
{{- with .Values.speaker.bgp }}
{{- if .enabled }}
- --bgp-socket=/run/fairlead/bgp
- --bgp-drain-time={{ .drainTimeSeconds }}s
{{- range .passwordSecrets }}
- --bgp-password-secret={{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.speaker.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* The container of the BGP daemon, in the speaker's pod. */}}
{{- define "fairlead.bgpContainer" -}}
{{- $bgp := .Values.speaker.bgp -}}
{{- $grace := int .Values.speaker.terminationGracePeriodSeconds -}}
{{- if lt $grace (add $bgp.drainTimeSeconds 15 | int) }}
{{- fail "speaker.terminationGracePeriodSeconds must be at least 15 more than speaker.bgp.drainTimeSeconds" }}
{{- end }}
- name: bgp
  image: {{ include "fairlead.imageOf" (list . $bgp.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/bin/fairlead-bgpd]
  args:
    - --directory=/run/fairlead/bgp
    - --heartbeat-timeout={{ $bgp.heartbeatTimeoutSeconds }}s
    # The rest of the grace period is for the daemon's own end.
    - --end-timeout={{ sub $grace 8 }}s
  env:
    {{- include "fairlead.logEnv" . | nindent 4 }}
  livenessProbe:
    exec: {command: [/usr/bin/fairlead-bgpd, alive]}
    periodSeconds: 10
    timeoutSeconds: 3
    failureThreshold: 6
  readinessProbe:
    exec: {command: [/usr/bin/fairlead-bgpd, status]}
    periodSeconds: 5
    timeoutSeconds: 3
  resources: {{- toYaml $bgp.resources | nindent 4 }}
  securityContext:
    # The speaker's user, which the sockets are for.
    runAsUser: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    # None is needed: not for passwords (RFC 2385), TTL security, BFD or sessions bound to an interface, and nothing
    # listens on port 179.
    capabilities: {drop: [ALL]}
  volumeMounts:
    - {name: bgp, mountPath: /run/fairlead/bgp}
{{- end }}
