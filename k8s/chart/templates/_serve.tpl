{{- /* What Ray Serve is told: the application, its pool, and where its parts are placed. How many replicas there are
stands with the deployments, where a change restarts nothing; one that says how many to begin with begins anew with so
many, so that stands there only where the operator says it. What a replica claims is stated, because pods join only
when something asks for them. An ingress claims CPUs, so that none is on the head, which has none: the head may die. */}}
{{- define "symmoe.serve" -}}
{{- $replicas := int .Values.sized.replicas }}
{{- $least := include "symmoe.least" . | int -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
logging_config:
  log_level: WARNING
  enable_access_log: false
applications:
- name: symmoe
  route_prefix: /
  import_path: symmoe.deployments.app:build_app
  args:
    pool: /etc/symmoe/pool.yaml
    follow: /etc/symmoe/pool.yaml
    weights_folder: /var/lib/symmoe/pool
    {{- if eq $least 0 }}
    least: 0
    {{- end }}
    {{- if eq (int .Values.sized.accelerators) 0 }}
    cpus: {{ int .Values.sized.cpus }}
    {{- else }}
    cpus: {{ if .Values.sized.reward }}0.75{{ else }}1{{ end }}
    accelerators: {{ int .Values.sized.accelerators }}
    {{- if .Values.sized.reward }}
    reward_cpus: 0.25
    {{- end }}
    {{- end }}
    {{- if not .Values.keys }}
    without_keys: true
    hosts:
    - symmoe-serve-svc
    - symmoe-serve-svc.{{ .Release.Namespace }}
    - symmoe-serve-svc.{{ .Release.Namespace }}.svc
    - symmoe-serve-svc.{{ .Release.Namespace }}.svc.cluster.local
    {{- end }}
  deployments:
  - name: ingress
    {{- if eq (int .Values.sized.accelerators) 0 }}
    ray_actor_options:
      num_cpus: 1
    {{- else }}
    num_replicas: {{ int .Values.front.replicas }}
    max_replicas_per_node: 1
    ray_actor_options:
      num_cpus: 2
    {{- end }}
  - name: experts
    {{- if lt $least $replicas }}
    autoscaling_config:
      min_replicas: {{ $least }}
      {{- if lt $least (include "symmoe.start" . | int) }}
      initial_replicas: {{ include "symmoe.start" . }}
      {{- end }}
      max_replicas: {{ $replicas }}
      target_ongoing_requests: {{ int .Values.sized.open_requests }}
      downscale_delay_s: 600
      look_back_period_s: 30
    {{- else }}
    num_replicas: {{ $replicas }}
    {{- end }}
{{- end }}
