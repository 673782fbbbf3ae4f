{{- define "weir.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* Labels of one part: include "weir.labels" (list $ "ingest") */}}
{{- define "weir.labels" -}}
{{- $root := index . 0 -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "weir.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "weir.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "weir.annotations" -}}
{{- if .Values.monitoring.annotations }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: "9464"
  prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- define "weir.podSecurity" -}}
enableServiceLinks: false
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "weir.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- /* Health: include "weir.probes" "/readyz". A role listens once it has reached everything, so
/healthz says that it has started. Those that answer senders and callers stay in their Service when a
database or Kafka is away: their 503 says when to come again, a refused connection does not. */}}
{{- define "weir.probes" -}}
readinessProbe:
  httpGet: { path: {{ . }}, port: http }
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: { path: /healthz, port: http }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
startupProbe:
  httpGet: { path: /healthz, port: http }
  periodSeconds: 2
  failureThreshold: 150
{{- end }}

{{- define "weir.env.postgres" -}}
{{- if .Values.postgres.enabled }}
- name: POSTGRES_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .Values.existingSecret }}, key: postgres-password } }
- name: DATABASE_URL
  value: postgres://weir:$(POSTGRES_PASSWORD)@{{ include "weir.name" . }}-postgres:5432/weir
{{- else }}
- name: DATABASE_URL
  valueFrom: { secretKeyRef: { name: {{ .Values.existingSecret }}, key: database-url } }
{{- end }}
{{- end }}

{{- /* The cluster's name; nothing where there is none. */}}
{{- define "weir.clickhouse.cluster" -}}
{{- if not .Values.clickhouse.enabled }}
{{- .Values.clickhouse.cluster }}
{{- else if gt (int .Values.clickhouse.replicas) 1 }}
{{- .Values.clickhouse.cluster | default "weir" }}
{{- end }}
{{- end }}

{{- define "weir.env.clickhouse" -}}
- name: CLICKHOUSE_URL
{{- if .Values.clickhouse.enabled }}
{{- $clickhouse := printf "%s-clickhouse" (include "weir.name" .) }}
  # One server, so that a read is made where the read before it has had it caught up.
  value: http://{{ $clickhouse }}-{{ .Values.clickhouse.server }}.{{ $clickhouse }}:8123
{{- else }}
  value: {{ required "clickhouse.url, or clickhouse.enabled" .Values.clickhouse.url }}
{{- end }}
- name: CLICKHOUSE_USER
  value: {{ .Values.clickhouse.user }}
- name: CLICKHOUSE_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .Values.existingSecret }}, key: clickhouse-password } }
- name: CLICKHOUSE_DATABASE
  value: {{ .Values.clickhouse.database }}
{{- with include "weir.clickhouse.cluster" . }}
- name: CLICKHOUSE_CLUSTER
  value: {{ . }}
{{- end }}
{{- end }}

{{- define "weir.env.kafka" -}}
- name: KAFKA_BROKERS
{{- if .Values.kafka.enabled }}
{{- $kafka := printf "%s-kafka" (include "weir.name" .) }}
  value: {{ range $i := until 3 }}{{ if $i }},{{ end }}{{ $kafka }}-{{ $i }}.{{ $kafka }}:9092{{ end }}
{{- else }}
  value: {{ required "kafka.brokers, or kafka.enabled" .Values.kafka.brokers }}
{{- end }}
- name: KAFKA_TOPIC
  value: {{ .Values.log.topic }}
- name: KAFKA_PARTITIONS
  value: {{ .Values.log.partitions | quote }}
{{- end }}

{{- /* What is the same for every role, and the role's own: include "weir.env.common" (list $ "ingest") */}}
{{- define "weir.env.common" -}}
{{- $root := index . 0 -}}
- name: METRICS_LISTEN
  value: 0.0.0.0:9464
- name: WEIR_LOG_FORMAT
  value: json
{{- with $root.Values.logFilter }}
- name: WEIR_LOG
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := (index $root.Values (index . 1)).env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "weir.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .className }}
storageClassName: {{ . }}
{{- end }}
resources: { requests: { storage: {{ .size }} } }
{{- end }}
