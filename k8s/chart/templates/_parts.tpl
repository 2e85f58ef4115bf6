{{- define "symmoe.meta" -}}
namespace: {{ .Release.Namespace }}
labels: {{ include "symmoe.labels" . }}
{{- end }}

{{- define "symmoe.labels" -}}
{app.kubernetes.io/name: symmoe, app.kubernetes.io/part-of: symmoe}
{{- end }}

{{- /* Argo CD and Helm leave these where they are: the old cluster still needs them, or they cannot be made again. */}}
{{- define "symmoe.kept" -}}
annotations:
  helm.sh/resource-policy: keep
  argocd.argoproj.io/sync-options: Prune=false,Delete=false
{{- end }}

{{- define "symmoe.image" -}}
{{- $kind := ternary "gpu" "cpu" (gt (int .Values.sized.accelerators) 0) }}
{{- .Values.image.name }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $kind) }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ end }}
{{- end }}

{{- define "symmoe.pull" -}}
{{- if .Values.image.pull_secrets }}
imagePullSecrets:
  {{- range .Values.image.pull_secrets }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* OpenShift gives each namespace users of its own, and refuses others. */}}
{{- define "symmoe.pod" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "symmoe.locked" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 10001
{{- end }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "symmoe.environment" -}}
HOME: /tmp
HF_HOME: /var/lib/symmoe/hub
HF_HUB_DISABLE_TELEMETRY: "1"
{{- if .Values.weights.hub }}
HF_ENDPOINT: {{ .Values.weights.hub }}
{{- end }}
SYMMOE_CACHE: /var/lib/symmoe/cache
SYMMOE_STATE: /tmp/state
SYMMOE_FILES: /var/lib/symmoe/files
VLLM_CACHE_ROOT: /tmp/vllm
VLLM_NO_USAGE_STATS: "1"
TRITON_CACHE_DIR: /tmp/triton
TORCHINDUCTOR_CACHE_DIR: /tmp/inductor
RAY_USAGE_STATS_ENABLED: "0"
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: "300"
PYTHONDONTWRITEBYTECODE: "1"
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH: symmoe.deployments.door.proxy:middlewares
{{- end }}

{{- define "symmoe.environmentName" -}}
symmoe-environment-{{ include "symmoe.environment" . | sha256sum | trunc 10 }}
{{- end }}

{{- define "symmoe.text" -}}
{{- range $name, $text := . }}
{{ $name }}
{{ $text }}
{{- end }}
{{- end }}

{{- /* Another pool is another name, another pod template, and with that a new Ray cluster beside the old one; but not
where only experts come or go, which running pods follow. */}}
{{- define "symmoe.poolName" -}}
symmoe-pool-{{ include "symmoe.text" (.Values.pool_base | default .Values.pool_files) | sha256sum | trunc 10 }}
{{- end }}

{{- define "symmoe.volumeName" -}}
{{ .Values.storage.claim | default "symmoe-models" }}
{{- end }}

{{- /* One expert pod on CPUs needs no volume that several nodes mount. */}}
{{- define "symmoe.accessMode" -}}
{{- if .Values.storage.access_mode }}{{ .Values.storage.access_mode }}
{{- else if or (gt (int .Values.sized.accelerators) 0) (gt (int .Values.sized.replicas) 1) }}ReadWriteMany
{{- else }}ReadWriteOnce
{{- end }}
{{- end }}

{{- define "symmoe.redisUrl" -}}
{{- if .Values.redis.host -}}
rediss://{{ .Values.redis.user }}:$(SYMMOE_REDIS_PASSWORD)@{{ .Values.redis.host }}:{{ int .Values.redis.port }}/0
{{- if .Values.redis.ca_secret }}?ssl_ca_certs=/etc/symmoe-redis/ca.crt{{ end }}
{{- else -}}
redis://:$(SYMMOE_REDIS_PASSWORD)@symmoe-redis:6379/0
{{- end }}
{{- end }}

{{- /* What each of Ray's containers is told. */}}
{{- define "symmoe.told" -}}
envFrom:
  - configMapRef: {name: {{ include "symmoe.environmentName" . }}}
  - secretRef: {name: symmoe-remote-keys, optional: true}
env:
  - name: SYMMOE_REDIS_PASSWORD
    valueFrom:
      secretKeyRef: {name: symmoe-redis, key: password}
  - {name: REDIS_URL, value: "{{ include "symmoe.redisUrl" . }}"}
  {{- if .Values.redis.ca_secret }}
  - {name: RAY_REDIS_CA_CERT, value: /etc/symmoe-redis/ca.crt}
  {{- end }}
{{- end }}

{{- define "symmoe.mounts" -}}
- {name: shared, mountPath: /dev/shm}
- {name: tmp, mountPath: /tmp}
- {name: pool, mountPath: /etc/symmoe, readOnly: true}
{{- if .Values.redis.ca_secret }}
- {name: redis-ca, mountPath: /etc/symmoe-redis, readOnly: true}
{{- end }}
{{- end }}

{{- define "symmoe.volumes" -}}
- name: pool
  configMap: {name: {{ include "symmoe.poolName" . }}}
{{- if .Values.redis.ca_secret }}
- name: redis-ca
  secret: {secretName: {{ .Values.redis.ca_secret }}}
{{- end }}
{{- end }}

{{- define "symmoe.modelsVolume" -}}
- name: models
  persistentVolumeClaim: {claimName: {{ include "symmoe.volumeName" . }}}
{{- end }}

{{- /* A container of Ray's workers. Ray drains by itself when it is told to end. */}}
{{- define "symmoe.worker" -}}
name: ray-worker
image: {{ include "symmoe.image" . }}
ports:
  - {name: metrics, containerPort: 8080}
  - {name: serve, containerPort: 8000}
readinessProbe:
  httpGet: {path: /-/healthz, port: serve}
  initialDelaySeconds: 10
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 1
# Tolerates what a restart of the head takes: ten minutes.
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  initialDelaySeconds: 60
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
securityContext: {{- include "symmoe.locked" . | nindent 2 }}
volumeMounts:
  {{- include "symmoe.mounts" . | nindent 2 }}
  - {name: models, mountPath: /var/lib/symmoe}
{{ include "symmoe.told" . }}
{{- end }}

{{- /* Of the pods of one component: how they are labelled, and what is the same in all workers. */}}
{{- define "symmoe.workerPod" -}}
serviceAccountName: symmoe
automountServiceAccountToken: false
restartPolicy: Never
# Longer than draining may take, which is as long as a request may.
terminationGracePeriodSeconds: 330
securityContext: {{- include "symmoe.pod" . | nindent 2 }}
{{- include "symmoe.pull" . }}
{{- end }}

{{- define "symmoe.fetch" -}}
image: {{ include "symmoe.image" . }}
envFrom:
  - configMapRef: {name: {{ include "symmoe.environmentName" . }}}
env:
  - name: HF_TOKEN
    valueFrom:
      secretKeyRef: {name: symmoe-hub, key: token, optional: true}
  - name: AWS_ACCESS_KEY_ID
    valueFrom:
      secretKeyRef: {name: symmoe-s3, key: access_key_id, optional: true}
  - name: AWS_SECRET_ACCESS_KEY
    valueFrom:
      secretKeyRef: {name: symmoe-s3, key: secret_access_key, optional: true}
  {{- if .Values.weights.s3_endpoint }}
  - {name: AWS_ENDPOINT_URL_S3, value: {{ quote .Values.weights.s3_endpoint }}}
  {{- end }}
  {{- if .Values.weights.s3_region }}
  - {name: AWS_REGION, value: {{ quote .Values.weights.s3_region }}}
  {{- end }}
resources:
  requests: {cpu: "1", memory: 2Gi, ephemeral-storage: 256Mi}
  limits: {cpu: "4", memory: 4Gi, ephemeral-storage: 2Gi}
securityContext: {{- include "symmoe.locked" . | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: pool, mountPath: /etc/symmoe, readOnly: true}
  - {name: models, mountPath: /var/lib/symmoe}
{{- end }}

{{- define "symmoe.command" -}}
[symmoe, k8s, fetch, --pool, /etc/symmoe/pool.yaml, --leave-out{{ if eq (int .Values.sized.accelerators) 0 }}, --pack{{ end }}]
{{- end }}

{{- /* How many expert replicas stay, and how many a new cluster begins with. */}}
{{- define "symmoe.least" -}}
{{ min (int .Values.experts.least) (int .Values.sized.replicas) }}
{{- end }}

{{- define "symmoe.start" -}}
{{- $least := include "symmoe.least" . | int }}
{{- max $least (min (int .Values.experts.start) (int .Values.sized.replicas)) }}
{{- end }}

{{- define "symmoe.job" -}}
backoffLimit: 6
ttlSecondsAfterFinished: 86400
template:
  metadata:
    labels:
      app.kubernetes.io/name: symmoe
      app.kubernetes.io/part-of: symmoe
      app.kubernetes.io/component: weights
  spec:
    serviceAccountName: symmoe
    automountServiceAccountToken: false
    restartPolicy: OnFailure
    securityContext: {{- include "symmoe.pod" . | nindent 6 }}
    {{- include "symmoe.pull" . | indent 4 }}
    containers:
      - name: weights
        command: {{ include "symmoe.command" . }}
        {{- include "symmoe.fetch" . | nindent 8 }}
    volumes:
      - name: tmp
        emptyDir: {sizeLimit: 4Gi}
      - name: pool
        configMap: {name: {{ include "symmoe.poolName" . }}}
      {{- include "symmoe.modelsVolume" . | nindent 6 }}
{{- end }}
