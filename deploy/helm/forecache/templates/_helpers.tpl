{{- define "forecache.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-forecache" .Release.Name) (contains "forecache" .Release.Name) -}}
{{- $name | trunc 30 | trimSuffix "-" }}
{{- end }}

{{- /* What selects the pods of a component: (list $ "reader"). */ -}}
{{- define "forecache.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: forecache
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "forecache.labels" -}}
{{ include "forecache.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}

{{- define "forecache.podLabels" -}}
{{ include "forecache.selector" . }}
{{- with (index . 0).Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The image of a kind of pod: (list $ "batch"). */ -}}
{{- define "forecache.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $name := index $images (index . 1) -}}
{{- with $images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $name }}
{{- if not (contains "@" $name) }}:{{ $images.tag | default (index . 0).Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* What all pods have in common: (list $ SERVICE_ACCOUNT, true if the pod calls Kubernetes' API). */ -}}
{{- define "forecache.pod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "forecache.fullname" $root }}{{ with index . 1 }}-{{ . }}{{ end }}
automountServiceAccountToken: {{ index . 2 }}
enableServiceLinks: false # the Service of the readers would set FORECACHE_READER_PORT
{{ include "forecache.podSecurity" $root }}
{{- end }}

{{- define "forecache.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where a component's pods run: the values of the component. */ -}}
{{- define "forecache.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "forecache.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "forecache.envFrom" -}}
envFrom:
  - configMapRef: {name: {{ include "forecache.fullname" . }}}
{{- with .Values.existingSecret }}
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- /* What all containers of an image have in common: (list $ "batch"), and the names of further ConfigMaps. */ -}}
{{- define "forecache.container" -}}
image: {{ include "forecache.image" . }}
imagePullPolicy: {{ (index . 0).Values.images.pullPolicy }}
{{ include "forecache.envFrom" (index . 0) }}
{{- range slice . 2 }}
  - configMapRef: {name: {{ . }}}
{{- end }}
{{ include "forecache.security" . }}
{{- end }}

{{- /* The settings of the ConfigMap. */ -}}
{{- define "forecache.settings" -}}
{{- $root := trimSuffix "/" .Values.storage.root -}}
{{- $places := dict
  "LAKE" (list "lake" "lake")
  "LANDING" (list "landing" "landing")
  "TRAINING_CHECKPOINTS" (list "checkpoints" "checkpoints")
  "STORE_REMOTE" (list "storeRemote" "store")
  "MLFLOW_ARTIFACTS" (list "mlflowArtifacts" "mlflow") -}}
FORECACHE_HOME: /var/lib/forecache
{{- range $name, $place := $places }}
{{- $given := index $.Values.storage (index $place 0) }}
{{- if not (or $given $root) }}{{ fail "Set storage.root to the bucket of the installation, such as s3://forecache." }}{{ end }}
FORECACHE_{{ $name }}: {{ $given | default (printf "%s/%s" $root (index $place 1)) | quote }}
{{- end }}
{{- with .Values.mlflow.uri }}
FORECACHE_MLFLOW_URI: {{ . | quote }}
{{- else }}{{ if not .Values.existingSecret }}{{ fail "Set mlflow.uri, or name a Secret with FORECACHE_MLFLOW_URI in existingSecret." }}{{ end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{- /* The driver of Spark's executors on Kubernetes: its variables, mount and volume. */ -}}
{{- define "forecache.sparkEnv" -}}
{{- if .Values.spark.enabled }}
{{- $spark := .Values.spark }}
{{- $conf := dict
  "spark.kubernetes.namespace" .Release.Namespace
  "spark.kubernetes.container.image" (include "forecache.image" (list . "batch"))
  "spark.kubernetes.container.image.pullPolicy" .Values.images.pullPolicy
  "spark.kubernetes.driver.pod.name" "$(POD_NAME)"
  "spark.kubernetes.executor.podTemplateFile" "/etc/forecache/spark/executor.yaml"
  "spark.kubernetes.executor.podTemplateContainerName" "executor"
  "spark.driver.host" "$(POD_IP)"
  "spark.driver.port" "7078"
  "spark.driver.blockManager.port" "7079"
  "spark.executor.instances" ($spark.executors | toString)
  "spark.executor.cores" ($spark.cores | toString)
  "spark.executor.memory" $spark.memory
  "spark.executor.memoryOverhead" $spark.memoryOverhead }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: FORECACHE_SPARK_MASTER, value: "k8s://https://kubernetes.default.svc"}
- {name: FORECACHE_SCORING_WORKER_MEMORY_MB, value: "1024"}
- name: FORECACHE_SPARK_CONF
  value: {{ merge (dict) $spark.conf $conf | toJson | quote }}
{{- end }}
{{- end }}

{{- define "forecache.sparkMount" -}}
{{- if .Values.spark.enabled }}
- {name: spark, mountPath: /etc/forecache/spark, readOnly: true}
{{- end }}
{{- end }}

{{- define "forecache.sparkVolume" -}}
{{- if .Values.spark.enabled }}
- name: spark
  configMap: {name: {{ include "forecache.fullname" . }}-spark}
{{- end }}
{{- end }}

{{- /* Which ends of a pod count, by the name of its container. */ -}}
{{- define "forecache.failures" -}}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
    - action: FailJob # wrong usage, missing table, bad input, a check's or gate's no: another try would end the same
      onExitCodes: {containerName: {{ . }}, operator: In, values: [2, 3, 4, 6]}
{{- end }}

{{- /* A CronJob with one container of the batch image: a dict of root, name, component, schedule, resources, args,
deadline, and placement or null; driver where it starts executors. */ -}}
{{- define "forecache.cron" -}}
{{- $root := .root -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "forecache.fullname" $root }}-{{ .name }}
  labels: {{- include "forecache.labels" (list $root .component) | nindent 4 }}
spec:
  schedule: {{ .schedule | quote }}
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {{ .deadline }}
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
      backoffLimit: 3
      activeDeadlineSeconds: {{ .deadline }}
      {{- include "forecache.failures" .component | nindent 6 }}
      template:
        metadata:
          labels: {{- include "forecache.podLabels" (list $root .component) | nindent 12 }}
        spec:
          {{- include "forecache.pod" (list $root "" (and .driver $root.Values.spark.enabled)) | nindent 10 }}
          {{- with .placement }}{{ include "forecache.placement" . | nindent 10 }}{{ end }}
          restartPolicy: Never
          terminationGracePeriodSeconds: 60
          containers:
            - name: {{ .component }}
              command: [forecache]
              args: {{ toJson .args }}
              env:
                - {name: HOME, value: /tmp} # what libraries keep in a home folder
                {{- if .driver }}{{ include "forecache.sparkEnv" $root | nindent 16 }}{{ end }}
              resources: {{ toJson .resources }}
              volumeMounts:
                - {name: home, mountPath: /var/lib/forecache}
                - {name: tmp, mountPath: /tmp}
                {{- if .driver }}{{ include "forecache.sparkMount" $root | nindent 16 }}{{ end }}
              {{- include "forecache.container" (list $root "batch") | nindent 14 }}
          volumes: # a cache: what lasts is in the bucket and the databases
            - name: home
              emptyDir: {}
            - name: tmp
              emptyDir: {}
            {{- if .driver }}{{ include "forecache.sparkVolume" $root | nindent 12 }}{{ end }}
{{- end }}
