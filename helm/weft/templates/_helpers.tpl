{{/* The name of everything the chart creates: the release's, unless it is overridden. */}}
{{- define "weft.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if eq .Release.Name "weft" -}}
weft-operator
{{- else -}}
{{- printf "%s-weft-operator" (trunc 40 .Release.Name) -}}
{{- end -}}
{{- end }}

{{/* Names of what belongs to no namespace must differ between releases of the same name in several namespaces. */}}
{{- define "weft.clusterName" -}}
{{- if and (eq .Release.Name "weft") (eq .Release.Namespace "weft-system") -}}
weft-operator
{{- else -}}
{{- printf "%s-%s" (include "weft.name" .) .Release.Namespace | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "weft.selector" -}}
app.kubernetes.io/name: weft-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weft.labels" -}}
{{ include "weft.selector" . }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image: by digest where there is one. Takes [image, appVersion]. */}}
{{- define "weft.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end }}
