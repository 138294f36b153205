{{/* The gate's configuration: `config` of the values, and what depends on where the gate runs. Fails where values contradict. */}}

{{- define "portcullis.checked" -}}
{{- $values := .Values -}}
{{- $chosen := $values.identity -}}
{{- if eq $chosen.source "files" -}}
  {{- if and (not $chosen.files.secret) (not $chosen.files.csi) -}}
    {{- fail "identity.files: name the Secret with the gate's certificate and key (identity.files.secret), or a CSI volume that holds them (identity.files.csi), or set identity.source to workloadApi" -}}
  {{- end -}}
  {{- if and $chosen.files.secret $chosen.files.csi -}}
    {{- fail "identity.files: secret and csi are both set; the certificate comes from one of them" -}}
  {{- end -}}
  {{- if not (hasKey $chosen.files.bundles $chosen.trustDomain) -}}
    {{- fail (printf "identity.files.bundles: the gate's own trust domain %s is missing; say where its CA certificates are: {%s: {configMap: NAME, key: KEY}}" $chosen.trustDomain $chosen.trustDomain) -}}
  {{- end -}}
{{- end -}}
{{- if and (eq $values.mode "sidecar") (eq $values.state.kind "persistentVolumeClaim") (not $values.state.existingClaim) -}}
  {{- fail "state: in mode sidecar the volume is your pod's. Set state.kind to emptyDir (kills then end with the pod), or name state.existingClaim where the pod is the only one" -}}
{{- end -}}
{{- if and (eq $values.audit.to "file") (not $values.audit.existingClaim) -}}
  {{- fail "audit.existingClaim: name the claim the record is written to. It has one of its own, so that a full record leaves room for kills" -}}
{{- end -}}
{{- if and $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled -}}
  {{- fail "metrics: podMonitor and serviceMonitor are both enabled, which counts everything twice; choose one" -}}
{{- end -}}
{{- if and (eq $values.mode "sidecar") $values.metrics.serviceMonitor.enabled -}}
  {{- fail "metrics.serviceMonitor: in mode sidecar the chart makes no Service; use metrics.podMonitor" -}}
{{- end -}}
{{- $open := list -}}
{{- range $listener := $values.config.listeners -}}
  {{- if not (include "portcullis.loopback" $listener) -}}{{- $open = append $open $listener.name -}}{{- end -}}
  {{- if eq (include "portcullis.port" $listener) (toString $values.adminPort) -}}
    {{- fail (printf "adminPort: %v is the port of listener %s as well; choose another" $values.adminPort $listener.name) -}}
  {{- end -}}
  {{- if and (eq $values.mode "gate") (gt (len $listener.name) 15) -}}
    {{- fail (printf "config.listeners: %s becomes the name of a port, which has at most 15 characters" $listener.name) -}}
  {{- end -}}
{{- end -}}
{{- if and (eq $values.mode "gate") (not $open) -}}
  {{- fail "config.listeners: all of them are on 127.0.0.1, which nobody outside the pod can reach; write 0.0.0.0" -}}
{{- end -}}
{{- end -}}

{{/* The port of a listener. */}}
{{- define "portcullis.port" -}}
{{- regexFind "[0-9]+$" .address -}}
{{- end -}}

{{/* Not empty when a listener takes callers of its own pod only. */}}
{{- define "portcullis.loopback" -}}
{{- if or (hasPrefix "127." .address) (hasPrefix "[::1]" .address) -}}yes{{- end -}}
{{- end -}}

{{- define "portcullis.bundle" -}}
/etc/portcullis/policy/{{ .name }}{{ with .bundle.archive }}/{{ . }}{{ end }}
{{- end -}}

{{- define "portcullis.identity" -}}
trust_domain: {{ .trustDomain }}
source:
{{- if eq .source "files" }}
  files:
    certificate: /etc/portcullis/identity/{{ .files.certificate }}
    private_key: /etc/portcullis/identity/{{ .files.privateKey }}
    bundles:
    {{- range $domain, $bundle := .files.bundles }}
      {{ $domain }}: {{ if $bundle.file }}/etc/portcullis/identity/{{ $bundle.file }}{{ else }}/etc/portcullis/bundles/{{ $domain }}.pem{{ end }}
    {{- end }}
{{- else }}
  workload_api: {endpoint: "unix:///spiffe-workload-api/{{ .workloadApi.socket }}"}
{{- end }}
{{- end -}}

{{- define "portcullis.config" -}}
{{- include "portcullis.checked" . -}}
{{- $config := deepCopy .Values.config -}}
{{- $bundles := dict -}}
{{- range $name, $bundle := .Values.policy.bundles -}}
{{- $_ := set $bundles $name (dict "path" (include "portcullis.bundle" (dict "name" $name "bundle" $bundle))) -}}
{{- end -}}
{{- $record := ternary "-" "/var/log/portcullis/decisions.jsonl" (eq .Values.audit.to "stdout") -}}
{{- $_ := set $config "identity" (include "portcullis.identity" .Values.identity | fromYaml) -}}
{{- $_ := set $config "policy" (merge (dict "bundles" $bundles) (default dict $config.policy)) -}}
{{- $_ := set $config "audit" (merge (dict "file" $record) (default dict $config.audit)) -}}
{{- $_ := set $config "state" (dict "directory" "/var/lib/portcullis/state") -}}
{{- $_ := set $config "admin" (dict "address" (printf "0.0.0.0:%v" .Values.adminPort)) -}}
{{- $_ := set $config "control" (dict "socket" "/run/portcullis/control.sock") -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Seconds from SIGTERM to the end: config.limits.drain, a second for what is cut then, and the rest for the last lines of the record. */}}
{{- define "portcullis.grace" -}}
{{- $drain := dig "limits" "drain" "30s" .Values.config -}}
{{- $count := regexFind "^[0-9]+" $drain | int -}}
{{- $unit := regexFind "[a-z]+$" $drain -}}
{{- $seconds := dict "ms" 0 "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- $drained := mul $count (get $seconds $unit | default 0) -}}
{{- if eq $unit "ms" -}}{{- $drained = add (div $count 1000) 1 -}}{{- end -}}
{{- add $drained 10 -}}
{{- end -}}
