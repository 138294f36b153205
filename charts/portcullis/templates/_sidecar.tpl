{{/*
The gate as part of a pod. In mode gate this chart's own pod is made of it. In a chart of yours that has this one as a dependency:

  spec:
    template:
      metadata:
        labels:
          {{- include "portcullis.sidecar.labels" .Subcharts.portcullis | nindent 10 }}
        annotations:
          {{- include "portcullis.sidecar.annotations" .Subcharts.portcullis | nindent 10 }}
      spec:
        initContainers:
          {{- include "portcullis.sidecar.container" .Subcharts.portcullis | nindent 10 }}
        volumes:
          {{- include "portcullis.sidecar.volumes" .Subcharts.portcullis | nindent 10 }}

It is an init container that stays (restartPolicy Always): containers after it start when it is ready, and end before it does.
*/}}

{{- define "portcullis.sidecar.container" -}}
- name: portcullis
  restartPolicy: Always
  {{- include "portcullis.container" . | nindent 2 }}
  # Whoever starts after the gate finds it ready, SVID and policy included.
  startupProbe:
    httpGet: {path: /readyz, port: {{ .Values.adminPort }}}
    periodSeconds: 1
    failureThreshold: 120
{{- end -}}

{{/* A changed configuration needs a restart; a changed policy or certificate does not. */}}
{{- define "portcullis.sidecar.annotations" -}}
portcullis/config: {{ include "portcullis.config" . | sha256sum }}
{{- end -}}

{{- define "portcullis.container" -}}
image: {{ include "portcullis.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [run, -c, /etc/portcullis/config/gate.yaml]
env:
  - {name: PORTCULLIS_LOG, value: {{ .Values.log | quote }}}
  # So that `kubectl exec … -- portcullis kill …` finds its gate.
  - {name: PORTCULLIS_SOCKET, value: /run/portcullis/control.sock}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- range $listener := .Values.config.listeners }}
  {{- if not (include "portcullis.loopback" $listener) }}
  - containerPort: {{ include "portcullis.port" $listener }}
  {{- end }}
  {{- end }}
  - {name: portcullis-adm, containerPort: {{ .Values.adminPort }}}
readinessProbe:
  httpGet: {path: /readyz, port: {{ .Values.adminPort }}}
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: {{ .Values.adminPort }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "portcullis.check.mounts" . | nindent 2 }}
  - {name: portcullis-run, mountPath: /run/portcullis}
  - {name: portcullis-state, mountPath: /var/lib/portcullis}
  {{- if eq .Values.audit.to "file" }}
  - {name: portcullis-record, mountPath: /var/log/portcullis}
  {{- end }}
  {{- if eq .Values.identity.source "files" }}
  - {name: portcullis-identity, mountPath: /etc/portcullis/identity, readOnly: true}
  {{- if include "portcullis.identity.bundles" . }}
  - {name: portcullis-bundles, mountPath: /etc/portcullis/bundles, readOnly: true}
  {{- end }}
  {{- else }}
  - {name: portcullis-identity, mountPath: /spiffe-workload-api, readOnly: true}
  {{- end }}
{{- end -}}

{{/* What `portcullis check` reads. No subPath anywhere: such files would never change. */}}
{{- define "portcullis.check.mounts" -}}
- {name: portcullis-config, mountPath: /etc/portcullis/config, readOnly: true}
{{- range $name, $bundle := .Values.policy.bundles }}
- {name: portcullis-policy-{{ $name }}, mountPath: /etc/portcullis/policy/{{ $name }}, readOnly: true}
{{- end }}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes the root context and `suffix`, which tells the copies of the check from what the gate reads. */}}
{{- define "portcullis.check.volumes" -}}
{{- $fullname := include "portcullis.fullname" .root -}}
- name: portcullis-config
  configMap: {name: {{ $fullname }}{{ .suffix }}}
{{- range $name, $bundle := .root.Values.policy.bundles }}
- name: portcullis-policy-{{ $name }}
  {{- if $bundle.secret }}
  secret: {secretName: {{ $bundle.secret }}}
  {{- else }}
  configMap: {name: {{ default (printf "%s-policy-%s%s" $fullname $name $.suffix) $bundle.configMap }}}
  {{- end }}
{{- end }}
{{- with .root.Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "portcullis.sidecar.volumes" -}}
{{- include "portcullis.check.volumes" (dict "root" . "suffix" "") }}
{{- /* Memory: the socket is all there is in it. */}}
- name: portcullis-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: portcullis-state
  {{- if eq .Values.state.kind "emptyDir" }}
  emptyDir: {}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ default (printf "%s-state" (include "portcullis.fullname" .)) .Values.state.existingClaim }}}
  {{- end }}
{{- if eq .Values.audit.to "file" }}
- name: portcullis-record
  persistentVolumeClaim: {claimName: {{ .Values.audit.existingClaim }}}
{{- end }}
{{- $files := .Values.identity.files }}
{{- if eq .Values.identity.source "workloadApi" }}
- name: portcullis-identity
  csi: {driver: {{ .Values.identity.workloadApi.driver }}, readOnly: true}
{{- else }}
- name: portcullis-identity
  {{- if $files.secret }}
  {{- /* 0440 where fsGroup makes the group the gate's, else 0444; in a pod of yours nobody but the gate mounts it. */}}
  secret: {secretName: {{ $files.secret }}, defaultMode: {{ ternary 288 292 (eq .Values.mode "gate") }}}
  {{- else }}
  csi:
    {{- toYaml $files.csi | nindent 4 }}
  {{- end }}
{{- with include "portcullis.identity.bundles" . }}
- name: portcullis-bundles
  projected:
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Trust bundles that do not lie beside the certificate. */}}
{{- define "portcullis.identity.bundles" -}}
{{- range $domain, $bundle := .Values.identity.files.bundles }}
{{- if not $bundle.file }}
- {{ ternary "configMap" "secret" (hasKey $bundle "configMap") }}:
    name: {{ default $bundle.secret $bundle.configMap }}
    items: [{key: {{ $bundle.key }}, path: {{ $domain }}.pem}]
{{ end }}
{{- end }}
{{- end -}}
