{{- /* The pod template. `role` is `service` or `standby`. */ -}}
{{- define "freeze.pod" -}}
{{- $freeze := .Values.freeze -}}
metadata:
  labels: {app: {{ .Release.Name }}, role: {{ .role }}}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $freeze.termGraceSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .Values.user }}
    runAsGroup: {{ .Values.user }}
    fsGroup: {{ .Values.user }}
    seccompProfile: {type: RuntimeDefault}
  {{- with $freeze.image }}
  initContainers:
  - name: freeze
    image: {{ . }}
    {{- with $.Values.imagePullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    args: [install, /to]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: freeze, mountPath: /to}]
  {{- end }}
  containers:
  - name: app
    image: {{ .Values.image }}
    {{- with .Values.imagePullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    {{- if $freeze.image }}
    command: {{ concat (list "/opt/freeze/freeze" "run" "--") .Values.command | toJson }}
    {{- else if .Values.command }}
    args: {{ .Values.command | toJson }}
    {{- end }}
    env:
    - {name: FREEZE_STORE, value: {{ $freeze.store.url | quote }}}
    - {name: FREEZE_ON_TERM, value: {{ $freeze.onTerm }}}
    - {name: FREEZE_TERM_GRACE, value: {{ $freeze.termGraceSeconds }}s}
    - {name: FREEZE_INSTANCE, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    {{- with $freeze.exclusive }}
    - {name: FREEZE_EXCLUSIVE, value: {{ . | quote }}}
    {{- end }}
    {{- if eq .role "standby" }}
    - {name: FREEZE_STANDBY, value: "1"}
    {{- end }}
    {{- if $freeze.encryption.secret }}
    - {name: FREEZE_PASSPHRASE_FILE, value: {{ printf "/freeze-passphrase/%s" $freeze.encryption.key | quote }}}
    {{- end }}
    {{- range $name, $value := .Values.env }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
    {{- with $freeze.store.secret }}
    envFrom: [{secretRef: {name: {{ . }}}}]
    {{- end }}
    {{- with .Values.ports }}
    ports:
    {{- range . }}
    - {containerPort: {{ . }}, protocol: TCP}
    {{- end }}
    readinessProbe: {tcpSocket: {port: {{ first . }}}, periodSeconds: 1}
    {{- end }}
    {{- with .Values.resources }}
    resources: {{ toJson . }}
    {{- end }}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    {{- if or $freeze.image $freeze.encryption.secret }}
    volumeMounts:
    {{- if $freeze.image }}
    - {name: freeze, mountPath: /opt/freeze, readOnly: true}
    {{- end }}
    {{- if $freeze.encryption.secret }}
    - {name: freeze-passphrase, mountPath: /freeze-passphrase, readOnly: true}
    {{- end }}
  volumes:
    {{- if $freeze.image }}
  - {name: freeze, emptyDir: {}}
    {{- end }}
    {{- with $freeze.encryption.secret }}
  - {name: freeze-passphrase, secret: {secretName: {{ . }}, defaultMode: 0440}}
    {{- end }}
    {{- end }}
{{- end }}
